"""The loop that every level runs: read → predict → learn → publish → checkpoint.

Predicting comes before learning, for every impression; `Learner.steps` does both
in one pass over the tables. What is published names its source, and a checkpoint
says where the log goes on, so a restart repeats what the last checkpoint had not
seen and nothing else. At a boundary of event time the loop stops between two batches,
with nothing under way, for whoever is due there.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from errors import UserError
from streaming.impressions import Batch
from trainers.checkpoint import Progress
from trainers.ranks import Ranks
from trainers.saver import Saved, Write


class Reader(Protocol):
    """Where batches come from; `streaming.reader.LogReader` and in-memory lists are such."""

    @property
    def finished(self) -> bool: ...

    def next_batch(self, timeout: float) -> Batch | None: ...


class Learn(Protocol):
    """Predicts and then learns batches, one result a batch, in order; None is an empty batch
    beside other ranks' full ones. May take some batches ahead of their results.

    A result is the probabilities [B] from before learning the batch, and the loss.
    """

    def __call__(self, batches: Iterator[Batch | None]) -> Iterator[tuple[np.ndarray, float]]: ...


class Watcher(Protocol):
    """Told of every batch after it was learnt, of every turn, with or without a batch, and
    of every time that the loop was held up by handing a checkpoint over."""

    def learnt(
        self, batch: Batch, probability_B: np.ndarray, loss: float, seconds: float
    ) -> None: ...

    def turn(self, progress: Progress) -> None: ...

    def stalled(self, seconds: float) -> None: ...


class Saves(Protocol):
    """Where checkpoints go; `trainers.saver.Saver` is such."""

    @property
    def idle(self) -> bool: ...

    def save(self, progress: Progress, write: Write) -> None: ...

    def wait(self) -> Saved | None: ...


class Boundary(Protocol):
    """What happens at certain event times: between two batches, with nothing under way.

    ``due`` is asked once of every batch, in order, when it is read: batches before it may
    not be learnt yet. When it says yes on any rank, ``act`` runs on every rank (with None
    where this rank has no batch) as soon as they are, and then the batch is predicted and
    learnt. What ``act`` returns is the same on every rank and goes into `Progress.marks`.
    A crash before the next checkpoint repeats it, so it must give the same result again.
    """

    def due(self, batch: Batch) -> bool: ...

    def act(self, batch: Batch | None) -> dict[str, int]: ...


class Loop:
    def __init__(
        self,
        *,
        reader: Reader,
        learn: Learn,
        publish: Callable[[Batch, np.ndarray, int], None],
        flush: Callable[[], None] = lambda: None,
        watcher: Watcher,
        snapshot: Callable[[], Write],
        saver: Saves,
        every_batches: int,
        progress: Progress,
        ranks: Ranks,
        stopping: threading.Event,
        wait_for_all: bool = False,
        boundary: Boundary | None = None,
        marks: Callable[[Progress], dict[str, int]] = lambda progress: {},
    ) -> None:
        """``flush`` hands on what ``publish`` still holds: called whenever nothing is under
        way; ``snapshot`` copies the state and returns what writes the copy;
        ``wait_for_all`` makes a rank wait for its batch rather than join with an empty one, so
        that a bounded log gives the same batches every time; ``marks``: asked on every rank
        when a checkpoint is taken, with nothing under way, what that is to say besides."""
        self.reader, self.learn, self.watcher = reader, learn, watcher
        self.publish, self.flush = publish, flush
        self.snapshot, self.saver, self.every_batches = snapshot, saver, every_batches
        self.progress, self.ranks, self.stopping = progress, ranks, stopping
        self.wait_for_all, self.boundary, self.marks = wait_for_all, boundary, marks
        self._held: list[Batch | None] = []  # the batch beyond a boundary, until that was seen to
        self._saved_step = progress.step
        self._over = self._save_now = False

    def run(self) -> Progress:
        """Go on until told to stop or until the log ends; leave a checkpoint of the end."""
        while not self._over:
            under_way: deque[tuple[Batch | None, float]] = deque()
            for probability_B, loss in self.learn(self._stretch(under_way)):
                self._learnt(*under_way.popleft(), probability_B, loss)
            self.flush()
            if self._save_now and not self._over:
                self._save()
            if self._held:
                self._act(self._held[0])
        self.saver.wait()
        if self.progress.step > self._saved_step or not self._last_save_worked():
            self._save()
            self.saver.wait()
        return self.progress

    def _stretch(self, under_way: deque[tuple[Batch | None, float]]) -> Iterator[Batch | None]:
        """Batches up to a checkpoint, a boundary or a pause: then nothing must be under way."""
        while True:
            acted = bool(self._held)
            batch = self._held.pop() if acted else self._read()
            turn = self.ranks.turn(
                has_batch=batch is not None,
                finished=self.reader.finished,
                stop=self.stopping.is_set() and not acted,
                may_save=self.saver.idle,
                due=not acted and self._crosses(batch),
            )
            if turn.boundary:
                self._save_now, self._over = False, turn.stop
                self._held = [] if turn.stop else [batch]
                return
            if turn.learn:
                under_way.append((batch, time.perf_counter()))
                yield batch
            self.watcher.turn(self.progress)
            self._over = turn.stop
            # What all ranks agreed on, not `saver.idle`: all of them must save, or none.
            self._save_now = turn.may_save and self._due(self.progress.step + len(under_way))
            if turn.stop or self._save_now or not turn.learn:
                return

    def _crosses(self, batch: Batch | None) -> bool:
        return batch is not None and self.boundary is not None and self.boundary.due(batch)

    def _act(self, batch: Batch | None) -> None:
        assert self.boundary is not None
        marks = self.boundary.act(batch)
        self.progress = replace(self.progress, marks=self.progress.marks | marks)

    def _due(self, step: int) -> bool:
        return step - self._saved_step >= self.every_batches

    def _read(self) -> Batch | None:
        while True:
            batch = self.reader.next_batch(timeout=0.2)
            over = self.reader.finished or self.stopping.is_set()
            if batch is not None or over or not self.wait_for_all:
                return batch

    def _learnt(
        self, batch: Batch | None, started: float, probability_B: np.ndarray, loss: float
    ) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the loss of batch {self.progress.step + 1} is {loss}: the model diverged; "
                "the last checkpoint is sound, go on from it with smaller learning rates"
            )
        step = self.progress.step + 1
        self.progress = replace(self.progress, step=step)
        if batch is None:
            return
        self.publish(batch, probability_B, step - 1)
        self.progress = replace(
            self.progress,
            impressions=self.progress.impressions + len(batch),
            watermark=max(self.progress.watermark, batch.watermark),
            positions=batch.positions,
        )
        self.watcher.learnt(batch, probability_B, loss, time.perf_counter() - started)

    def _save(self) -> None:
        started = time.perf_counter()
        self.progress = replace(
            self.progress, marks=self.progress.marks | self.marks(self.progress)
        )
        self.saver.save(self.progress, self.snapshot())
        self._saved_step = self.progress.step
        self.watcher.stalled(time.perf_counter() - started)

    def _last_save_worked(self) -> bool:
        saved = self.saver.wait()
        return saved is None or saved.error is None
