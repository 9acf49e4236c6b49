import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.history import (
    Snapshot,
    Window,
    bucket_of,
    bucket_starts,
    empty_window,
    expire,
    merge,
    of_period,
    publish,
    resize,
)
from embeddings.history_settings import HistoryConfig
from embeddings.ids import spread

DAY = 86_400_000
DIM = 2


def vector(entity, end):
    """A vector that tells whose it is, and when: exact in float16."""
    return [entity, end]


def snapshot(end, *entities, kind="user", bucket=0):
    ids_N = np.array(sorted(entities), np.int64)
    vectors_ND = np.array([vector(i, end) for i in ids_N], np.float16).reshape(-1, DIM)
    return Snapshot(kind, bucket, end, ids_N, vectors_ND)


def merged(snapshots, slots=3):
    window = empty_window(slots, DIM)
    for one in snapshots:
        window = merge(window, one)
    return window


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids_N, other.ids_N)
    np.testing.assert_array_equal(one.period_ends_NH, other.period_ends_NH)
    np.testing.assert_array_equal(one.vectors_NHD, other.vectors_NHD)
    assert one.newest_period_end == other.newest_period_end


def expected(snapshots, slots):
    """Entity to its newest period ends, by dictionaries."""
    ends = {}
    for one in snapshots:
        for entity in one.ids_N.tolist():
            ends.setdefault(entity, set()).add(one.period_end)
    return {entity: sorted(found, reverse=True)[:slots] for entity, found in ends.items()}


def contents(window):
    """Entity to its period ends; asserts that the vectors are theirs, zeros elsewhere."""
    found = {}
    for entity, ends_H, vectors_HD in zip(
        window.ids_N.tolist(), window.period_ends_NH.tolist(), window.vectors_NHD, strict=True
    ):
        wanted = [vector(entity, end) if end else [0] * DIM for end in ends_H]
        np.testing.assert_array_equal(vectors_HD, np.array(wanted, np.float16))
        found[entity] = [end for end in ends_H if end]
    return found


# -- merging ------------------------------------------------------------------

snapshots_strategy = st.lists(
    st.builds(
        lambda end, entities: snapshot(end, *entities),
        st.integers(1, 9),
        st.frozensets(st.integers(0, 6), max_size=5),
    ),
    max_size=8,
).map(lambda found: list({one.period_end: one for one in found}.values()))


@given(snapshots_strategy, st.data(), st.integers(1, 4))
def test_any_order_and_repeats_give_the_same(snapshots, data, slots):
    again = data.draw(st.lists(st.sampled_from(snapshots), max_size=5)) if snapshots else []
    shuffled = data.draw(st.permutations(snapshots + again))
    window = merged(snapshots, slots)
    assert_same(merged(shuffled, slots), window)
    assert contents(window) == expected(snapshots, slots)
    assert window.newest_period_end == max((one.period_end for one in snapshots), default=0)


@given(snapshots_strategy, st.data())
def test_expiring_in_between_makes_no_difference(snapshots, data):
    now, ttl = 10, data.draw(st.integers(0, 9))
    window = empty_window(3, DIM)
    for one in data.draw(st.permutations(snapshots)):
        window = merge(window, one)
        window = expire(window, data.draw(st.integers(0, now)), ttl)
    assert_same(expire(window, now, ttl), expire(merged(snapshots), now, ttl))


def test_a_repeated_period_end_is_replaced():
    window = merged([snapshot(5, 1), snapshot(4, 1), snapshot(3, 1)])
    other = Snapshot("user", 0, 4, np.array([1]), np.full((1, DIM), 7, np.float16))
    window = merge(window, other)
    np.testing.assert_array_equal(window.period_ends_NH, [[5, 4, 3]])
    np.testing.assert_array_equal(window.vectors_NHD[0], [vector(1, 5), [7, 7], vector(1, 3)])


def test_a_period_long_gone_does_not_come_back():
    snapshots = [snapshot(end, 1, 2) for end in (7, 8, 9)]
    window = merged(snapshots)
    assert_same(merge(window, snapshot(2, 1, 2)), window)


def test_an_empty_snapshot_says_that_its_period_is_over():
    window = merge(merged([snapshot(5, 1)]), snapshot(6))
    assert window.newest_period_end == 6
    assert contents(window) == {1: [5]}


def test_merging_leaves_the_old_window_as_it_was():
    window = merged([snapshot(5, 1)])
    before = window.period_ends_NH.copy(), window.vectors_NHD.copy()
    merge(window, snapshot(6, 1, 2))
    np.testing.assert_array_equal(window.period_ends_NH, before[0])
    np.testing.assert_array_equal(window.vectors_NHD, before[1])


def test_widths_must_agree():
    with pytest.raises(ValueError, match="width 2 for a window of width 3"):
        merge(empty_window(3, 3), snapshot(5, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "creative"}, "creative"),
        ({"period_end": 0}, "period end is 0"),
        ({"ids_N": np.array([2, 1])}, "ascending"),
        ({"ids_N": np.array([1, 1])}, "ascending"),
        ({"ids_N": np.array([1])}, "1 ids"),
    ],
)
def test_a_snapshot_of_parts_that_do_not_fit_is_refused(change, words):
    good = vars(snapshot(5, 1, 2))
    with pytest.raises(ValueError, match=words):
        Snapshot(**(good | change))


# -- expiring and resizing ----------------------------------------------------


def test_what_is_older_than_the_ttl_goes_and_so_does_who_has_nothing_left():
    window = merged([snapshot(10, 1), snapshot(20, 1, 2), snapshot(30, 3)])
    left = expire(window, now_ms=30, ttl_ms=10)
    assert contents(left) == {1: [20], 2: [20], 3: [30]}
    assert contents(expire(window, now_ms=31, ttl_ms=10)) == {3: [30]}
    assert expire(window, now_ms=99, ttl_ms=10).newest_period_end == 30


def test_resizing_drops_the_oldest_or_leaves_room():
    window = merged([snapshot(10, 1), snapshot(20, 1, 2), snapshot(30, 1)])
    assert_same(resize(window, 3), window)
    assert contents(resize(window, 2)) == {1: [30, 20], 2: [20]}
    wider = resize(window, 5)
    assert contents(wider) == contents(window)
    assert wider.slots == 5


def test_a_period_can_be_taken_out_again():
    window = merged([snapshot(10, 1, 3), snapshot(20, 1, 2)])
    found = of_period(window, 10, "item", 4)
    assert (found.kind, found.bucket, found.period_end) == ("item", 4, 10)
    np.testing.assert_array_equal(found.ids_N, [1, 3])
    np.testing.assert_array_equal(found.vectors_ND, [vector(1, 10), vector(3, 10)])


# -- publishing ---------------------------------------------------------------


def one_entity(ends, values, config):
    """A window of one entity with vectors of one number each."""
    ends_NH = np.zeros((1, config.window), np.int64)
    vectors_NHD = np.zeros((1, config.window, 1), np.float16)
    ends_NH[0, : len(ends)], vectors_NHD[0, : len(values), 0] = ends, values
    return Window(np.array([1]), ends_NH, vectors_NHD, max(ends))


def test_recency_by_hand():
    config = HistoryConfig(periods=3, versions=2, half_life=1.0, period_hours=24)
    # Seen on days 9, 8, 6 and 5: as of day 9 weights 1, 1/2, 1/8; as of day 8 they are 1, 1/4, 1/8.
    window = one_entity(np.array([9, 8, 6, 5]) * DAY, [13, 26, 39, 52], config)
    result = publish(window, config)
    np.testing.assert_array_equal(result.period_ends_NH, [[9 * DAY, 8 * DAY]])
    wanted = [(13 + 26 / 2 + 39 / 8) / (13 / 8), (26 + 39 / 4 + 52 / 8) / (11 / 8)]
    np.testing.assert_allclose(result.vectors_NHD[0, :, 0], wanted, rtol=1e-3)


def test_a_longer_half_life_weighs_the_old_more():
    config = HistoryConfig(periods=2, versions=1, half_life=2.0, period_hours=24)
    result = publish(one_entity(np.array([9, 7]) * DAY, [3, 6], config), config)
    np.testing.assert_allclose(result.vectors_NHD[0, 0, 0], (3 + 6 / 2) / 1.5, rtol=1e-3)


def test_the_mean_is_over_the_periods_that_there_are():
    config = HistoryConfig(periods=3, versions=3, aggregation="mean")
    result = publish(one_entity([9, 8], [4, 8], config), config)
    np.testing.assert_array_equal(result.period_ends_NH, [[9, 8, 0]])
    np.testing.assert_array_equal(result.vectors_NHD[0, :, 0], [6, 8, 0])


def test_attention_gets_the_vectors_themselves():
    config = HistoryConfig(periods=2, versions=2, aggregation="attention")
    window = merged([snapshot(end, 1, 2) for end in (5, 6, 7)], config.window)
    assert publish(window, config) is window


@pytest.mark.parametrize("aggregation", ["mean", "recency"])
@given(snapshots_strategy)
def test_a_version_is_what_was_published_then(aggregation, snapshots):
    config = HistoryConfig(periods=2, versions=2, aggregation=aggregation)
    window = empty_window(config.window, DIM)
    published_at = {}
    for one in sorted(snapshots, key=lambda s: s.period_end):
        window = merge(window, one)
        now = publish(window, config)
        for row, entity in enumerate(now.ids_N.tolist()):
            for end, vector_D in zip(now.period_ends_NH[row], now.vectors_NHD[row], strict=True):
                then = published_at.setdefault((entity, int(end)), vector_D)
                np.testing.assert_array_equal(vector_D, then)


def test_a_window_of_too_few_periods_is_refused():
    with pytest.raises(ValueError, match="a window of 3 periods where 4 are needed"):
        publish(empty_window(3, DIM), HistoryConfig(periods=3, versions=2))


# -- buckets ------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [1, 3, 16, 1_000, 65_536])
def test_buckets_are_ranges_of_spread_ids(buckets):
    ids_N = np.random.default_rng(0).integers(0, 2**63 - 1, 20_000)
    ids_N = ids_N[np.argsort(spread(ids_N))]
    bucket_N = bucket_of(ids_N, buckets)
    assert bucket_N.min() >= 0
    assert bucket_N.max() < buckets
    starts = bucket_starts(buckets)
    np.testing.assert_array_equal(
        bucket_N, np.searchsorted(starts, spread(ids_N), side="right") - 1
    )
    if buckets <= 16:
        assert np.bincount(bucket_N).min() > 0.8 * len(ids_N) / buckets
