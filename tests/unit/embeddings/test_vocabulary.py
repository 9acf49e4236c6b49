import pytest
import torch
from torchrec.sparse.jagged_tensor import JaggedTensor

from embeddings.ids import ID_SPACE
from embeddings.resharding import IDS, ROWS, belongs, gather_history, place, take_share
from embeddings.vocabulary import INIT_SCALE, IdInit, ManagedIds, eviction_policy, id_vectors


def vocabulary(rows: int = 8, interval: int = 2, policy: str = "distance_lfu") -> ManagedIds:
    return ManagedIds(
        zch_size=rows,
        device=torch.device("cpu"),
        eviction_policy=eviction_policy(policy),
        eviction_interval=interval,
        input_hash_size=ID_SPACE,
    )


def bags(*lists: list[int]) -> dict[str, JaggedTensor]:
    values = torch.tensor([value for one in lists for value in one], dtype=torch.int64)
    lengths = torch.tensor([len(one) for one in lists], dtype=torch.int32)
    return {"table": JaggedTensor(values=values, lengths=lengths)}


def seen(ids: ManagedIds, *lists: list[int]) -> tuple[list[int], list[int]]:
    result = ids(bags(*lists))["table"]
    ids.evict()  # as TorchRec does in every step
    return result.values().tolist(), result.lengths().tolist()


def test_an_id_without_a_row_is_left_out_of_its_bag():
    ids = vocabulary()
    assert seen(ids, [10], [], [11, 10]) == ([], [0, 0, 0])
    rows, lengths = seen(ids, [10], [], [11, 99, 10])  # the second batch ends the interval
    assert lengths == [1, 0, 3]
    assert rows[0] == rows[3]
    assert len(set(rows)) == 3
    assert seen(ids, [12], [10]) == ([rows[0]], [0, 1])


def test_the_last_row_is_never_given_away():
    ids = vocabulary(rows=4, interval=1)
    rows, _ = seen(ids, list(range(20)))
    assert sorted(rows) == [0, 1, 2]
    assert ids.rows_in_use() == 3


def test_evaluation_records_nothing():
    ids = vocabulary(interval=1)
    seen(ids, [5])
    before = ids.hidden_state()
    ids.eval()
    assert seen(ids, [5, 6])[1] == [1]
    assert ids.hidden_state()["iteration"] == before["iteration"]
    assert ids.rows_in_use() == 1


def test_the_history_of_an_interval_grows_with_what_comes():
    ids = vocabulary(rows=4096, interval=3)
    seen(ids, [1])  # the stock history would now have room for three more ids
    seen(ids, list(range(100, 2_500)))
    rows, _ = seen(ids, list(range(3_000, 4_500)))
    assert ids.rows_in_use() == 1 + 2_400 + 1_500
    assert len(rows) == 1_500


@pytest.mark.parametrize("policy", ["lru", "lfu", "distance_lfu"])
def test_who_is_seen_all_the_time_stays_and_leavers_are_counted(policy):
    ids = vocabulary(rows=8, interval=1, policy=policy)
    for turn in range(30):
        seen(ids, [1, 2, 1, 2], [100 + turn])
    rows, _ = seen(ids, [1, 2])
    assert len(rows) == 2
    assert ids.admitted_total == ids.evicted_total + ids.rows_in_use()
    assert ids.evicted_total > 0 or policy == "lfu"


@pytest.mark.parametrize("policy", ["lru", "lfu", "distance_lfu"])
@pytest.mark.parametrize("saved_after", range(5))
def test_going_on_from_saved_state_gives_the_same_rows(policy, saved_after):
    torch.manual_seed(0)
    stream = [torch.randint(0, 40, (25,)).tolist() for _ in range(12)]
    whole = vocabulary(rows=16, interval=3, policy=policy)
    for batch in stream[:saved_after]:
        seen(whole, batch)
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    hidden = whole.hidden_state()
    expected = [seen(whole, batch) for batch in stream[saved_after:]]

    resumed = vocabulary(rows=16, interval=3, policy=policy)
    resumed.load_state_dict(state)
    resumed.load_hidden_state(hidden)
    assert [seen(resumed, batch) for batch in stream[saved_after:]] == expected
    assert resumed.evicted_total == whole.evicted_total


def test_a_new_row_starts_from_a_vector_that_the_id_alone_decides():
    first, second = vocabulary(interval=1), vocabulary(interval=1)
    start = IdInit(salt=3)
    start.vocabulary = first
    seen(first, [7, 8])
    one = start(torch.zeros(2, 4))[(first.newest_ids() == 7).nonzero().squeeze()]
    seen(second, [6, 5, 7])
    start.vocabulary = second
    other = start(torch.zeros(3, 4))[(second.newest_ids() == 7).nonzero().squeeze()]
    assert torch.equal(one, other)
    assert one.abs().max() > 0


def test_id_vectors_are_uniform_and_independent():
    vectors_ND = id_vectors(torch.arange(20_000), 8, salt=1)
    assert vectors_ND.abs().max() <= INIT_SCALE
    assert vectors_ND.mean(0).abs().max() < INIT_SCALE * 0.02
    torch.testing.assert_close(
        vectors_ND.std(0), torch.full((8,), INIT_SCALE / 3**0.5), rtol=0.02, atol=0
    )
    correlation_DD = torch.corrcoef(vectors_ND.T) - torch.eye(8)
    assert correlation_DD.abs().max() < 0.03
    assert not torch.equal(vectors_ND, id_vectors(torch.arange(20_000), 8, salt=2))


def vocabulary_of(ids: list[int], rows: int) -> dict[str, torch.Tensor]:
    free = rows - len(ids)
    return {
        IDS: torch.tensor(sorted(ids) + [ID_SPACE] * free),
        ROWS: torch.arange(rows).flip(0).roll(-1),
        "_mch_counts": torch.arange(rows) + 1,
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_dealing_out_gives_every_id_with_its_row_to_the_rank_that_asks_for_it(world_size):
    ids = torch.randint(0, ID_SPACE, (20,), generator=torch.manual_seed(0)).tolist()
    old = vocabulary_of(ids, rows=128)
    old_row = dict(zip(old[IDS].tolist(), old[ROWS].tolist(), strict=True))
    found = []
    for rank in range(world_size):
        share = take_share(old[IDS], old[ROWS], old["_mch_counts"], rank, world_size)
        size = 128 // world_size
        new = {name: place(share, column, size, name) for name, column in old.items()}
        assert (new[IDS].diff() >= 0).all()
        assert new[ROWS].tolist() == list(range(rank * size, (rank + 1) * size))
        assert share.left_out == 0
        assert belongs(share.ids_K, rank, world_size).all()
        for position, id_ in enumerate(share.ids_K.tolist()):
            assert old_row[id_] == share.rows_K[position]
            assert new["_mch_counts"][position] == old["_mch_counts"][old[IDS] == id_]
        found += share.ids_K.tolist()
    assert sorted(found) == sorted(ids)


def test_when_too_many_fall_to_one_rank_those_seen_least_are_left_out():
    old = vocabulary_of([5, 6, 7, 8, 9], rows=8)  # all in the lower half of the space
    share = take_share(old[IDS], old[ROWS], torch.tensor([9, 1, 8, 2, 7, 0, 0, 0]), 0, 2)
    assert share.ids_K.tolist() == [5, 7, 9]
    assert share.left_out == 2


def test_histories_go_where_their_ids_go():
    low, high = 3, ID_SPACE - 5
    histories = [
        {"ids": torch.tensor([low, high]), "last_access_iter": torch.tensor([1, 2])},
        {},
        {"ids": torch.tensor([high]), "last_access_iter": torch.tensor([3])},
    ]
    upper = gather_history(histories, rank=1, world_size=2)
    assert upper["ids"].tolist() == [high, high]
    assert upper["last_access_iter"].tolist() == [2, 3]
    assert gather_history([{}], 0, 1) == {}
