"""A set of ids that is exact, whatever order they come in and whenever it is tidied."""

import numpy as np
import pytest

from embeddings.ids import gather, spread
from trainers import seen as module
from trainers.seen import Seen, read_seen, write_seen


@pytest.fixture(params=[0, 50, 10_000])
def crowd(request, monkeypatch):
    monkeypatch.setattr(module, "CROWD", request.param)


def batches(seed, count=60):
    rng = np.random.default_rng(seed)
    return [rng.zipf(1.2, rng.integers(0, 40)) % 500 for _ in range(count)]


def test_it_holds_each_id_once(crowd):
    seen, expected = Seen(), set()
    for step, ids in enumerate(batches(1)):
        seen.add(ids)
        expected |= set(ids.tolist())
        if step % 3 == 0:
            seen.merge(seen.take_new())
        if seen.crowded:
            seen.keep(lambda ids: np.ones(len(ids), bool))
    found = seen.ids()
    assert sorted(gather(found).tolist()) == sorted(expected)
    assert (np.diff(found) > 0).all()


def test_what_is_new_is_told_once_and_not_when_it_is_held():
    seen = Seen()
    seen.add(np.array([5, 3, 5]))
    new = seen.take_new()
    assert sorted(gather(new).tolist()) == [3, 5]
    assert not len(seen.take_new())
    seen.merge(new)
    seen.ids()
    seen.add(np.array([3, 4]))
    assert gather(seen.take_new()).tolist() == [4]


def test_memory_is_bounded_by_what_is_worth_keeping(crowd):
    seen, worth = Seen(), spread(np.arange(100))
    for start in range(0, 100_000, 1_000):
        seen.add(np.arange(start, start + 1_000))
        seen.merge(seen.take_new())
        if seen.crowded:
            seen.keep(lambda ids: np.isin(ids, worth))
    held = sum(map(len, seen.parts()))
    assert held <= 100 + 2 * max(module.CROWD, 1_000)
    assert set(worth.tolist()) <= set(seen.ids().tolist())


def test_a_checkpoint_holds_what_all_ranks_had_seen(tmp_path):
    expected = set()
    for rank in range(3):
        seen = Seen()
        for ids in batches(rank, 10):
            seen.add(ids)
            expected |= set(ids.tolist())
        write_seen({"user": seen.parts(), "item": []}, tmp_path, rank)
    found = read_seen(tmp_path)
    assert set(gather(found["user"]).tolist()) == expected and not len(found["item"])
    assert read_seen(tmp_path / "nothing") == {}


def test_what_a_checkpoint_took_does_not_change_afterwards():
    seen = Seen()
    seen.add(np.array([1, 2]))
    taken = seen.parts()
    before = [part.copy() for part in taken]
    seen.add(np.array([3]))
    seen.keep(lambda ids: ids < 0)
    assert all((a == b).all() for a, b in zip(taken, before, strict=True))


def test_nothing_is_left_after_a_period():
    seen = Seen()
    seen.add(np.array([1]))
    seen.merge(seen.take_new())
    seen.add(np.array([2]))
    seen.clear()
    assert not len(seen.ids())
