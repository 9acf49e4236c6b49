"""GAUC over event time, from predictions in whatever order they arrive. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitoring import metrics
from monitoring.columns import Columns, StepRows


@dataclass(frozen=True)
class Point:
    """GAUC of one trailing window; NaN where undefined."""

    event_time: int  # end of the window, ms
    model: float
    ceiling: float  # of the true probabilities; NaN unless all of them are known
    impressions: int


@dataclass(frozen=True)
class Rows(Columns):
    """n predicted impressions."""

    user: NDArray[np.int64]  # [n]
    click: NDArray[np.int8]  # [n]
    probability: NDArray[np.float32]  # [n]
    truth: NDArray[np.float64]  # [n] true click probability, NaN: not known


NO_ROWS = Rows(
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.int8),
    np.empty(0, np.float32),
    np.empty(0, np.float64),
)


class SeriesBuilder:
    """A point for every `step_ms` of event time, each looking back over `window_ms`.

    Rows may come in any order: a partition that is read later than another
    changes the points that it belongs to. Beyond `max_rows` rows the oldest
    steps are frozen; rows that come for them even later are counted in `late`.
    Points are computed when `points` is called, and only those that changed.
    """

    def __init__(
        self, step_ms: int, window_ms: int, max_rows: int = 2_000_000, max_points: int = 1_000
    ) -> None:
        if step_ms < 1 or window_ms < step_ms:
            raise ValueError(f"a window of {window_ms} ms does not hold a step of {step_ms} ms")
        self.step_ms = step_ms
        self.late = 0
        self._steps = -(-window_ms // step_ms)
        self._max_rows, self._max_points = max_rows, max_points
        self._rows = StepRows(step_ms, NO_ROWS)
        self._frozen = -(2**62)  # the last step whose rows are gone
        self._points: dict[int, Point] = {}  # by step
        self._changed: set[int] = set()

    def update(self, rows: Rows) -> None:
        """Add rows in any order."""
        for step, part in self._rows.split(rows):
            if step <= self._frozen:
                self.late += len(part)
            else:
                self._rows.add(step, part)
                self._changed.add(step)
        while self._rows.held > self._max_rows and len(self._rows.steps()) > self._steps:
            self._freeze_oldest()

    def points(self) -> list[Point]:
        """Oldest first; the newest one's window still fills."""
        stale = {s for c in self._changed for s in range(c, c + self._steps)}
        for step in sorted(stale & {*self._rows.steps(), *self._changed}):
            self._points[step] = self._point(step)
        self._changed.clear()
        for step in sorted(self._points)[: -self._max_points]:
            del self._points[step]
        return [self._points[step] for step in sorted(self._points)]

    def latest(self) -> Rows:
        """The rows of the newest point's window, such as for :func:`metrics.gauc_interval`."""
        return self._window(self._rows.steps()[-1]) if self._rows else NO_ROWS

    def between(self, begin_ms: int, end_ms: int) -> float:
        """GAUC of the rows held with ``begin_ms`` <= event time < ``end_ms``; NaN: undefined."""
        rows = self._rows.between(begin_ms // self.step_ms, -(-end_ms // self.step_ms) - 1)
        rows = rows.take((rows.event_time >= begin_ms) & (rows.event_time < end_ms))
        return metrics.gauc(rows.user, rows.click, rows.probability).weighted

    def _window(self, step: int) -> Rows:
        return self._rows.between(step - self._steps + 1, step)

    def _point(self, step: int) -> Point:
        rows = self._window(step)
        known = len(rows) > 0 and not np.isnan(rows.truth).any()
        ceiling = metrics.gauc(rows.user, rows.click, rows.truth).weighted if known else math.nan
        return Point(
            event_time=(step + 1) * self.step_ms,
            model=metrics.gauc(rows.user, rows.click, rows.probability).weighted,
            ceiling=ceiling,
            impressions=len(rows),
        )

    def _freeze_oldest(self) -> None:
        """Compute what still needs the oldest step's rows, then let them go."""
        self.points()
        self._frozen = self._rows.steps()[0]
        self._rows.drop(self._frozen)
