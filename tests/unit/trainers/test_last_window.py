"""The last window's batches, learnt once more: none beyond what was predicted, on any rank."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streaming.impressions import Position
from streaming.log_gap import Gap, LogGapError
from trainers.last_window import Before, LastWindow, read_window, write_window
from trainers.ranks import Ranks

WINDOW = [Before({0: Position(0)}, 0), Before({0: Position(2, 3)}, 5), Before({0: Position(4)}, 9)]


class Batches:
    """A reader of batches that end at these offsets."""

    def __init__(self, *ends: int, error: Exception | None = None) -> None:
        self.ends, self.error, self.finished, self.closed = list(ends), error, False, False

    def next_batch(self, timeout: float) -> object:
        if self.error:
            raise self.error
        if not self.ends:
            self.finished = True
            return None
        return Batch({0: Position(self.ends.pop(0))})

    def close(self) -> None:
        self.closed = True


class Batch(SimpleNamespace):
    def __init__(self, positions: dict) -> None:
        super().__init__(positions=positions)

    def __len__(self) -> int:
        return 10


class OtherRanks(Ranks):
    """Others have a window of four batches."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 2

    def exchange(self, own):
        return [own, 4]


@pytest.fixture
def learner() -> SimpleNamespace:
    made = SimpleNamespace(steps=[])
    made.step = made.steps.append
    return made


def learn(learner, reader, ranks=None, until=6):
    told: list[str] = []
    window = LastWindow(
        learner,
        ranks or Ranks(),
        lambda before: reader,
        lambda batch: batch and batch.positions[0].offset,
        lambda: None,
        told.append,
    )
    learnt = window.learn(WINDOW, {0: Position(until)})
    return learnt, told


def test_all_of_it_is_learnt_in_order(learner):
    reader = Batches(2, 4, 6, 8)
    assert learn(learner, reader) == (30, [])
    assert learner.steps == [2, 4, 6]
    assert reader.closed


@pytest.mark.parametrize("reader", [Batches(2, 4, 7), Batches(2, 4)], ids=["other cuts", "ended"])
def test_what_was_not_predicted_is_not_learnt(learner, reader):
    learnt, told = learn(learner, reader)
    assert (learnt, learner.steps) == (20, [2, 4])
    assert len(told) == 1 and "last window" in told[0]


def test_what_retention_took_is_left_and_said(learner):
    gap = Gap("impressions.ad", 0, 0, 9, None, None)
    learnt, told = learn(learner, Batches(error=LogGapError([gap])))
    assert learnt == 0 and "not learnt again" in told[0]


def test_every_rank_takes_as_many_steps(learner):
    assert learn(learner, Batches(2, 4, 6), OtherRanks())[0] == 30
    assert learner.steps == [2, 4, 6, None]


def test_a_checkpoint_brings_the_window_back(tmp_path):
    kept = [(watermark, before) for watermark, before in zip((5, 9, 12), WINDOW, strict=True)]
    write_window(kept, tmp_path, 1)
    assert read_window(tmp_path, 1) == kept
    assert read_window(tmp_path, 0) == []
