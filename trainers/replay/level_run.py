"""The loop that every level runs, over a recorded log and without a process around it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from streaming.impressions import Batch
from trainers.boundaries import Boundaries
from trainers.checkpoint import Progress
from trainers.chunks import Make, chunked, made_ready
from trainers.features import ModelBatch
from trainers.learner import Learner
from trainers.loop import Boundary, Learn, Loop
from trainers.ranks import Ranks
from trainers.replay.results import Spent
from trainers.replay.streams import ahead
from trainers.saver import Saved, Write
from trainers.settings import LevelConfig

Advance = Callable[[int], None]
"""Told how many impressions were learnt."""

Publish = Callable[[Batch, np.ndarray, int], None]
_NEVER = 2**62


def nowhere(batch: Batch, probability_B: np.ndarray, step: int) -> None:
    """Publishes nothing."""


def settled(level: LevelConfig) -> LevelConfig:
    """With a number of threads: how sums are split over them decides their last bits."""
    return level if level.threads else level.model_copy(update={"threads": 1})


def run_level(
    batches: Iterator[Batch],
    read_ahead: int,
    make: Make,
    *,
    learn: Learn,
    advance: Advance,
    key: Callable[[Batch], object] = lambda batch: None,
    boundaries: Sequence[Boundary] = (),
    publish: Publish = nowhere,
) -> Spent:
    """Predict and learn all ``batches``, each with what ``make`` makes of its rows.

    Args:
        read_ahead: batches that are made ready in one go, while others are learnt.
        key: only batches with the same one are made ready together.

    Raises:
        UserError: the model diverged, or what the boundaries raise.
    """
    started = time.perf_counter()
    progress = Loop(
        reader=_Recorded(chunked(batches, read_ahead, key), make),
        learn=learn,
        publish=publish,
        watcher=_Watcher(advance),
        snapshot=lambda: _write_nothing,
        saver=_Unsaved(),
        every_batches=_NEVER,
        progress=Progress(),
        ranks=Ranks(),
        stopping=threading.Event(),
        wait_for_all=True,
        boundary=Boundaries(boundaries, Ranks()),
    ).run()
    return Spent(progress.impressions, time.perf_counter() - started)


def stepping(
    learner: Learner, told: Callable[[Batch, ModelBatch], None] = lambda batch, prepared: None
) -> Learn:
    """Learns batch after batch; ``told`` of each right before."""

    def learn(batches: Iterator[Batch | None]) -> Iterator[tuple[np.ndarray, float]]:
        for batch in batches:
            assert batch is not None
            assert isinstance(batch.prepared, ModelBatch)
            told(batch, batch.prepared)
            yield learner.step(batch.prepared)

    return learn


class _Recorded:
    """The loop's reader."""

    def __init__(self, chunks: Iterator[list[Batch]], make: Make) -> None:
        self._made = ahead(chunks, lambda chunk: made_ready(chunk, make), depth=1)
        self._ready: deque[Batch] = deque()
        self.finished = False

    def next_batch(self, timeout: float) -> Batch | None:
        if not self._ready:
            self._ready.extend(next(self._made, ()))
        if not self._ready:
            self.finished = True
            return None
        return self._ready.popleft()


class _Watcher:
    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def learnt(self, batch: Batch, probability_B: np.ndarray, loss: float, seconds: float) -> None:
        self._advance(len(batch))

    def turn(self, progress: Progress) -> None:
        pass

    def stalled(self, seconds: float) -> None:
        pass


class _Unsaved:
    """A replay keeps results, not checkpoints."""

    idle = True

    def save(self, progress: Progress, write: Write) -> None:
        pass

    def wait(self) -> Saved | None:
        return None


def _write_nothing(directory: object) -> dict[str, str]:
    return {}
