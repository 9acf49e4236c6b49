import pytest
import torch

from embeddings.ids import ID_SPACE
from embeddings.lookup import PrefixIndex
from embeddings.vocabulary import eviction_policy


def sorted_ids(used: int, free: int, below: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(used + free)
    ids = torch.randint(0, below, (used,), generator=generator).unique()
    return torch.cat([ids, torch.full((free + used - len(ids),), ID_SPACE)])


@pytest.mark.parametrize("below", [ID_SPACE - 1, ID_SPACE // 4, 3_000], ids=["all", "rank", "few"])
@pytest.mark.parametrize(("used", "free"), [(0, 1), (1, 1), (5, 3), (900, 1), (900, 5_000)])
def test_places_are_those_of_a_binary_search(used, free, below):
    ids_N = sorted_ids(used, free, below)
    absent = torch.randint(0, below, (500,), generator=torch.Generator().manual_seed(1))
    wanted_V = torch.cat([ids_N[:used], absent, torch.tensor([0, ID_SPACE - 1])])
    wanted_V = wanted_V[wanted_V < ID_SPACE]
    index = PrefixIndex(ids_N)
    at_V = index.places(wanted_V)
    assert torch.equal(at_V, torch.searchsorted(ids_N, wanted_V))
    assert torch.equal(index.known(wanted_V, at_V), torch.isin(wanted_V, ids_N))


def test_an_index_knows_when_its_ids_have_changed():
    ids_N = sorted_ids(10, 2, ID_SPACE - 1)
    index = PrefixIndex(ids_N)
    assert index.is_of(ids_N)
    assert not index.is_of(ids_N.clone())
    ids_N[0] = 0
    assert not index.is_of(ids_N)


@pytest.mark.parametrize("comers", [0, 1, 7, 60])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_who_stays_is_who_would_stay_after_sorting(comers, dtype):
    generator = torch.Generator().manual_seed(comers)
    scores = torch.randint(0, 6, (40 + comers,), generator=generator).to(dtype)
    policy = eviction_policy("lfu")
    leaves, comes = policy._compute_selected_eviction_and_replacement_indices(40, scores)
    best = torch.argsort(scores, descending=True, stable=True)[:40]
    assert sorted(comes.tolist()) == sorted((best[best >= 40] - 40).tolist())
    assert set(leaves.tolist()) == set(range(40)) - set(best.tolist())
    assert len(leaves) == len(comes)
