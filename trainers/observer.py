"""Counts what was learnt and, every few seconds, measures the window, the lag and the tables."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from monitoring.exporter import Progress as Liveness
from monitoring.telemetry import TrainerTelemetry
from monitoring.window import Window, WindowMetrics
from streaming.impressions import CLICK, EVENT_TIME, Batch, ImpressionSchema
from streaming.reader import LogReader
from trainers.checkpoint import Progress
from trainers.learner import Learner
from trainers.narration import ending, going, say
from trainers.saver import Saved

MEASURE_SECONDS = (2.0, 5.0)
"""Between two measurements, at least and at most; within that they take a 400th of the time."""
NARRATE_SECONDS = 10.0
TELL_SECONDS = 0.25
"""What was learnt is told once in so long: many batches cost little more than one."""


class _Learnt(NamedTuple):
    rows: pa.RecordBatch
    probability_B: np.ndarray
    loss: float
    seconds: float
    watermark: int


class Observer:
    """The trainer's eyes; called by the loop after every batch and by the saver."""

    def __init__(
        self,
        telemetry: TrainerTelemetry,
        window: Window,
        schema: ImpressionSchema,
        learner: Learner,
        reader: LogReader,
    ) -> None:
        self.telemetry, self.window, self.liveness = telemetry, window, Liveness()
        self._schema, self._learner, self._reader = schema, learner, reader
        self._next_measure = self._next_telling = 0.0
        self._untold: list[_Learnt] = []
        self._told: Counter[str] = Counter()
        self._unpublished: list[int] = []  # Kafka timestamps, ms, of what no checkpoint has learnt
        self._latest: WindowMetrics | None = None
        self._learnt = 0
        self._narrated = (time.monotonic(), 0)

    def learnt(self, batch: Batch, probability_B: np.ndarray, loss: float, seconds: float) -> None:
        self._learnt += len(batch)
        self._untold.append(_Learnt(batch.rows, probability_B, loss, seconds, batch.watermark))
        if batch.appended_at is not None:
            self._unpublished.append(batch.appended_at)

    def tell(self) -> None:
        """Bring the window and the telemetry up to date with what was learnt."""
        told, self._untold = self._untold, []
        self._next_telling = time.monotonic() + TELL_SECONDS
        if not told:
            return
        self.window.update(
            user=_column(told, self._schema.user),
            click=_column(told, CLICK),
            probability=np.concatenate([one.probability_B for one in told]),
            event_time=_column(told, EVENT_TIME),
        )
        for one in told:
            self.telemetry.learnt(one.rows.num_rows, one.seconds, one.loss)
        self.telemetry.watermark(told[-1].watermark)

    def stalled(self, seconds: float) -> None:
        self.telemetry.checkpoint_stalled(seconds)

    def turn(self, progress: Progress) -> None:
        self.liveness.mark()
        began = time.monotonic()
        if began >= self._next_telling:
            self.tell()
        if began >= self._next_measure:
            self.measure()
            now = time.monotonic()
            least, most = MEASURE_SECONDS
            self._next_measure = now + min(max(least, 400 * (now - began)), most)
        if (line := self.narrate(progress)) is not None:
            say(line)

    def measure(self) -> None:
        self.tell()
        self._latest = self.window.metrics()
        self.telemetry.quality(self._latest)
        lag = self._reader.lag()
        self.telemetry.lag(lag.records, lag.event_time_seconds)
        for name, stats in self._learner.vocabulary_stats().items():
            admitted = self._since(f"admitted {name}", stats.admitted_total)
            evicted = self._since(f"evicted {name}", stats.evicted_total)
            self.telemetry.table(name, stats.occupancy, admitted, evicted)
        counts = self._reader.counts
        self.telemetry.late(self._since("late", counts.late))
        self.telemetry.duplicates(self._since("duplicates", counts.duplicates))
        self.telemetry.lost(self._since("lost", counts.lost_records))
        self.telemetry.unknown("column", self._since("unknown", counts.unknown))
        for reason, count in dict(counts.bad).items():
            self.telemetry.dead_letters(str(reason), self._since(f"bad {reason}", count))

    def narrate(self, progress: Progress) -> str | None:
        """A line on how it goes, when one is due and there is news."""
        (at, learnt), now = self._narrated, time.monotonic()
        if now - at < NARRATE_SECONDS or learnt == self._learnt or self._latest is None:
            return None
        self._narrated = (now, self._learnt)
        rate = (self._learnt - learnt) / (now - at)
        return going(progress, rate, self._reader.lag().records, self._latest)

    def conclude(self, progress: Progress) -> list[str]:
        self.tell()
        return ending(progress, self.window.metrics(), self._reader.counts.bad)

    def metrics(self) -> dict[str, float]:
        """The window as last measured; may be called from any thread."""
        return asdict(self._latest) if self._latest is not None else {}

    def _since(self, name: str, total: int) -> int:
        """What a running total gained since it was last asked for."""
        gained = max(total - self._told[name], 0)
        self._told[name] = total
        return gained

    def handed_over(self) -> list[int]:
        """When what the checkpoint being taken has learnt was appended, ms."""
        appended, self._unpublished = self._unpublished, []
        return appended

    def saved(self, saved: Saved, appended_at: list[int]) -> None:
        if saved.error is not None:
            self.telemetry.checkpoint_failed()
            return
        self.telemetry.checkpoint_written(saved.progress.step, saved.seconds)
        now = time.time() * 1000
        self.telemetry.freshness((now - at) / 1000 for at in appended_at)


def _column(told: list[_Learnt], name: str) -> np.ndarray:
    return np.concatenate([one.rows.column(name).to_numpy() for one in told])
