"""Held-back ad impressions, and what a model still knows of them later.

Legend: P periods, K impressions of a sample, B of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.metrics import gauc
from streaming.impressions import CLICK, EVENT_TIME, IMPRESSION_ID, Batch, ImpressionSchema
from trainers.features import ModelBatch
from trainers.held_back import held_back


@dataclass(frozen=True)
class Periods:
    """P stretches of event time of one length, from ``start`` to ``end``, ms."""

    start: int
    end: int
    count: int

    def ends(self) -> list[int]:
        """Where each of them ends, ms; the last one just behind ``end``."""
        edges = np.linspace(self.start, self.end + 1, self.count + 1)
        return [int(edge) for edge in edges[1:]]


@dataclass
class Samples:
    """The held-back impressions, period by period, for as many models as ask."""

    rows: list[pa.RecordBatch]
    schema: ImpressionSchema


def samples_of(
    stretches: Iterator[pa.RecordBatch], periods: Periods, share: float, schema: ImpressionSchema
) -> Samples:
    """Choose from the ad impressions in ``stretches``."""
    parts: list[list[pa.RecordBatch]] = [[] for _ in range(periods.count)]
    ends = np.array(periods.ends())
    empty: pa.RecordBatch | None = None
    for rows in stretches:
        empty = rows.slice(0, 0)
        chosen = held_back(rows.column(IMPRESSION_ID).to_numpy(), share)
        period = np.searchsorted(ends, rows.column(EVENT_TIME).to_numpy(), side="right")
        for p in np.unique(period[chosen]).tolist():
            index = np.flatnonzero(chosen & (period == p))
            parts[p].append(rows.take(pa.array(index)))
    nothing = schema.empty() if empty is None else empty
    return Samples([pa.concat_batches(part) if part else nothing for part in parts], schema)


@dataclass
class Probe:
    """Asks one model, at every period's end, about all periods so far; a `Boundary`."""

    samples: Samples
    ends: list[int]
    prepare: Callable[[pa.RecordBatch, int], ModelBatch]
    """Makes a sample ready, once, at the end of its period, ms."""
    predict: Callable[[ModelBatch], NDArray[np.float32]]
    retained: NDArray[np.float64] = field(init=False)
    _ready: list[ModelBatch | None] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.retained = np.full((len(self.ends), len(self.ends)), np.nan)

    def due(self, batch: Batch) -> bool:
        closed = len(self._ready)
        return closed < len(self.ends) and self.ends[closed] <= batch.watermark

    def act(self, batch: Batch | None) -> dict[str, int]:
        while batch is not None and self.due(batch):
            self._close()
        return {}

    def finish(self) -> NDArray[np.float64]:
        """[P, P] once everything was learnt."""
        while len(self._ready) < len(self.ends):
            self._close()
        return self.retained

    def _close(self) -> None:
        now = len(self._ready)
        rows = self.samples.rows[now]
        self._ready.append(self.prepare(rows, self.ends[now]) if len(rows) else None)
        for then, batch in enumerate(self._ready):
            rows = self.samples.rows[then]
            if batch is not None:
                self.retained[now, then] = gauc(
                    rows.column(self.samples.schema.user).to_numpy(),
                    rows.column(CLICK).to_numpy(),
                    self.predict(batch),
                ).weighted
