import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.history import KINDS, Window, bucket_of, empty_window
from embeddings.history_settings import HistoryConfig
from embeddings.history_store import HistoryStore

BUCKETS = 3
KEPT = 3
DIM = 2


def vector(entity, end):
    return [entity, end]


def window(entities, newest=0):
    """Of a dictionary: entity to its period ends, newest first."""
    ids_N = np.array(sorted(entities), np.int64)
    ends_NK = np.zeros((len(ids_N), KEPT), np.int64)
    vectors_NKD = np.zeros((len(ids_N), KEPT, DIM), np.float16)
    for n, entity in enumerate(ids_N.tolist()):
        for k, end in enumerate(entities[entity]):
            ends_NK[n, k], vectors_NKD[n, k] = end, vector(entity, end)
    return Window(ids_N, ends_NK, vectors_NKD, newest)


def fill(store, kind, entities, newest=0):
    """Replace every bucket of a kind."""
    ids = np.array(sorted(entities), np.int64)
    bucket = bucket_of(ids, store.buckets)
    for b in range(store.buckets):
        own = {i: entities[i] for i in ids[bucket == b].tolist()}
        store.replace(kind, b, window(own, newest))


def store_with(entities, slots=None, aggregated=False):
    store = HistoryStore(DIM, KEPT, BUCKETS, aggregated, slots)
    fill(store, "user", entities)
    return store


def lookup(store, ids, times, kind="user"):
    return store.lookup(kind, np.array(ids, np.int64), np.array(times, np.int64))


def expected(entities, ids, times, slots):
    """By dictionaries and a loop."""
    vectors_BSD = np.zeros((len(ids), slots, DIM), np.float32)
    mask_BS = np.zeros((len(ids), slots), np.float32)
    for b, (entity, time) in enumerate(zip(ids, times, strict=True)):
        visible = [end for end in entities.get(entity, ()) if end <= time]
        for s, end in enumerate(visible[:slots]):
            vectors_BSD[b, s], mask_BS[b, s] = vector(entity, end), 1
    return vectors_BSD, mask_BS


entities_strategy = st.dictionaries(
    st.integers(0, 30),
    st.frozensets(st.integers(1, 9), min_size=1, max_size=KEPT).map(
        lambda ends: sorted(ends, reverse=True)
    ),
    max_size=20,
)


@given(
    entities_strategy,
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=30),
    st.integers(1, KEPT),
)
def test_lookups_are_those_of_a_dictionary_and_never_from_the_future(entities, wanted, slots):
    ids, times = [i for i, _ in wanted], [t for _, t in wanted]
    vectors_BSD, mask_BS = lookup(store_with(entities, slots), ids, times)
    want_BSD, want_BS = expected(entities, ids, times, slots)
    np.testing.assert_array_equal(vectors_BSD, want_BSD)
    np.testing.assert_array_equal(mask_BS, want_BS)
    assert vectors_BSD.dtype == mask_BS.dtype == np.float32
    # A vector's second number is its period end.
    assert (vectors_BSD[:, :, 1] <= np.array(times).reshape(-1, 1)).all()


def test_many_entities_over_the_whole_space_of_ids():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**63 - 3, 5_000)
    ends_NK = -np.sort(-rng.integers(1, 100, (5_000, KEPT)), axis=1)
    store = HistoryStore(DIM, KEPT, BUCKETS, aggregated=True)
    order = np.argsort(ids)
    ids, vectors_NKD = ids[order], rng.normal(size=(5_000, KEPT, DIM)).astype(np.float16)
    for b in range(BUCKETS):
        own = bucket_of(ids, BUCKETS) == b
        store.replace("item", b, Window(ids[own], ends_NK[own], vectors_NKD[own]))
    assert store.entities("item") == 5_000
    vectors_BSD, mask_BS = lookup(store, ids, np.full(5_000, 100), "item")
    np.testing.assert_array_equal(vectors_BSD[:, 0], vectors_NKD[:, 0])
    assert mask_BS.all()
    assert not lookup(store, ids ^ 1, np.full(5_000, 100), "item")[1].any()


@pytest.mark.parametrize(("aggregation", "slots"), [("mean", 1), ("recency", 1), ("attention", 3)])
def test_the_configuration_says_how_many_vectors_are_given(aggregation, slots):
    config = HistoryConfig(aggregation=aggregation, periods=3, buckets=BUCKETS)
    store = HistoryStore.of(config, DIM)
    vectors_BSD, mask_BS = lookup(store, [1, 2], [5, 5])
    assert vectors_BSD.shape == (2, slots, DIM) == (2, config.slots, DIM)
    assert mask_BS.shape == (2, slots)
    assert not vectors_BSD.any()
    assert store.kept == config.kept


def test_nobody_to_look_up():
    vectors_BSD, mask_BS = lookup(store_with({1: [5]}, aggregated=True), [], [])
    assert vectors_BSD.shape == (0, 1, DIM)
    assert mask_BS.shape == (0, 1)


def test_read_only_arrays_are_fine():
    ids, times = np.array([1]), np.array([7])
    ids.flags.writeable = times.flags.writeable = False
    assert store_with({1: [5]}).lookup("user", ids, times)[1][0, 0] == 1


def test_users_and_items_are_apart():
    store = store_with({1: [5]})
    fill(store, "item", {2: [6]})
    assert lookup(store, [1, 2], [9, 9], "item")[1][:, 0].tolist() == [0, 1]
    assert lookup(store, [1, 2], [9, 9], "user")[1][:, 0].tolist() == [1, 0]


def test_replacing_a_bucket_leaves_the_others_and_a_tombstone_takes_all_of_its_own():
    entities = {i: [5] for i in range(30)}
    store = store_with(entities)
    bucket = bucket_of(np.arange(30), BUCKETS)
    chosen, others = np.flatnonzero(bucket == 1), np.flatnonzero(bucket != 1)
    store.replace("user", 1, window({int(chosen[0]): [8]}))
    assert lookup(store, chosen, [9] * len(chosen))[1][:, 0].sum() == 1
    assert lookup(store, chosen[:1], [9])[0][0, 0].tolist() == vector(chosen[0], 8)
    store.remove("user", 1)
    assert not lookup(store, chosen, [9] * len(chosen))[1].any()
    assert lookup(store, others, [9] * len(others))[1][:, 0].all()
    assert store.entities("user") == len(others)


def test_what_is_too_late_for_the_vectors_kept_is_counted():
    store = store_with({1: [9, 8, 7], 2: [9, 8], 3: [6, 5, 4]}, slots=2)
    lookup(store, [1, 2, 3, 99], [8, 7, 6, 1])
    assert store.outrun == 0
    lookup(store, [1, 1, 2], [7, 2, 2])
    assert store.outrun == 2


def test_the_period_that_all_buckets_have_reached():
    store = HistoryStore(DIM, KEPT, 2, aggregated=True)
    nobody = empty_window(KEPT, DIM)

    def reach(kind, bucket, end):
        store.replace(kind, bucket, Window(*list(vars(nobody).values())[:3], end))

    for kind, bucket in [("user", 0), ("user", 1), ("item", 0)]:
        reach(kind, bucket, 5)
        assert store.complete_period_end == 0
    reach("item", 1, 4)
    assert store.complete_period_end == 4
    assert (store.newest_period_end("user"), store.newest_period_end("item")) == (5, 5)
    reach("item", 1, 6)
    assert store.complete_period_end == 5
    store.remove("item", 1)
    assert (store.complete_period_end, store.newest_period_end("item")) == (5, 6)
    store.clear()
    assert (store.complete_period_end, store.newest_period_end("user")) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "bucket", "content", "words"),
    [
        ("creative", 0, empty_window(KEPT, DIM), "no bucket creative/0"),
        ("user", BUCKETS, empty_window(KEPT, DIM), "no bucket user/3 among 3"),
        ("user", 0, empty_window(KEPT + 1, DIM), "4 vectors of width 2"),
        ("user", 0, empty_window(KEPT, DIM + 1), "3 vectors of width 3"),
        ("user", 0, window({i: [5] for i in range(9)}), "not of bucket 0 of 3"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(kind, bucket, content, words):
    store = store_with({1: [5]})
    with pytest.raises(ValueError, match=words):
        store.apply({("user", 1): None, (kind, bucket): content}, {0: 7})
    assert lookup(store, [1], [9])[1][0, 0] == 1
    assert store.positions == {}


# -- the local copy -----------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    store = store_with({i: [9, i % 7 + 1] for i in range(50)})
    fill(store, "item", {3: [4]}, newest=4)
    store.apply({}, {0: 17, 3: 4})
    store.save(tmp_path / "history" / "user.npz")
    return store, tmp_path / "history" / "user.npz"


def fresh(**changes):
    return HistoryStore(
        **({"dim": DIM, "kept": KEPT, "buckets": BUCKETS, "aggregated": False} | changes)
    )


def test_a_copy_gives_the_same(saved):
    store, path = saved
    other = fresh()
    assert other.load(path)
    ids, times = np.arange(60), np.arange(60) % 11
    for kind in KINDS:
        for one, two in zip(
            lookup(store, ids, times, kind), lookup(other, ids, times, kind), strict=True
        ):
            np.testing.assert_array_equal(one, two)
    assert other.positions == {0: 17, 3: 4}
    assert other.newest_period_end("item") == 4
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    other.replace("user", 0, empty_window(KEPT, DIM))  # it goes on from there


def test_no_copy_is_no_trouble(tmp_path, caplog):
    assert not fresh().load(tmp_path / "none.npz")
    assert not caplog.records


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_copy_is_not_used(saved, damage, caplog):
    _, path = saved
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    damaged = {"cut": content[:900], "flipped": content, "other": b"not zip", "empty": b""}[damage]
    path.write_bytes(damaged)
    store = fresh()
    with caplog.at_level(logging.WARNING):
        assert not store.load(path)
    assert "is not used, the topic is read anew" in caplog.text
    assert store.positions == {}
    assert store.entities("user") == 0


@pytest.mark.parametrize("change", [{"dim": 4}, {"kept": 2}, {"buckets": 4}])
def test_a_copy_of_another_configuration_is_not_used(saved, change, caplog):
    name, value = next(iter(change.items()))
    assert not fresh(**change).load(saved[1])
    assert f"now it is {value}" in caplog.text
    assert name in caplog.text
