"""GAUC over event time, from predictions in whatever order they arrive. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitoring import metrics


@dataclass(frozen=True)
class Point:
    """GAUC of one trailing window; NaN where undefined."""

    event_time: int  # end of the window, ms
    model: float
    ceiling: float  # of the true probabilities; NaN unless all of them are known
    impressions: int


@dataclass(frozen=True)
class Rows:
    """n predicted impressions."""

    event_time: NDArray[np.int64]  # [n] ms
    user: NDArray[np.int64]  # [n]
    click: NDArray[np.int8]  # [n]
    probability: NDArray[np.float32]  # [n]
    truth: NDArray[np.float64]  # [n] true click probability, NaN: not known

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: NDArray) -> Rows:
        return Rows(*(column[index] for column in self._columns()))

    def _columns(self) -> tuple[NDArray, ...]:
        return self.event_time, self.user, self.click, self.probability, self.truth

    @staticmethod
    def concatenate(parts: list[Rows]) -> Rows:
        columns = zip(*(part._columns() for part in parts), strict=True)
        return Rows(*(np.concatenate(column) for column in columns))


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
        self._rows: dict[int, list[Rows]] = {}  # by step
        self._held = 0
        self._frozen = -(2**62)  # the last step whose rows are gone
        self._points: dict[int, Point] = {}  # by step
        self._changed: set[int] = set()

    def update(self, rows: Rows) -> None:
        """Add rows in any order."""
        step = rows.event_time // self.step_ms
        late = step <= self._frozen
        if late.any():
            self.late += int(late.sum())
            rows, step = rows.take(~late), step[~late]
        for one in np.unique(step).tolist():
            part = rows.take(step == one)
            self._rows.setdefault(one, []).append(part)
            self._held += len(part)
            self._changed.add(one)
        while self._held > self._max_rows and len(self._rows) > self._steps:
            self._freeze_oldest()

    def points(self) -> list[Point]:
        """Oldest first; the newest one's window still fills."""
        stale = {s for c in self._changed for s in range(c, c + self._steps)}
        for step in sorted(stale & (self._rows.keys() | self._changed)):
            self._points[step] = self._point(step)
        self._changed.clear()
        for step in sorted(self._points)[: -self._max_points]:
            del self._points[step]
        return [self._points[step] for step in sorted(self._points)]

    def latest(self) -> Rows:
        """The rows of the newest point's window, such as for :func:`metrics.gauc_interval`."""
        return self._window(max(self._rows)) if self._rows else NO_ROWS

    def between(self, begin_ms: int, end_ms: int) -> float:
        """GAUC of the rows held with ``begin_ms`` <= event time < ``end_ms``; NaN: undefined."""
        steps = range(begin_ms // self.step_ms, -(-end_ms // self.step_ms))
        parts = [part for one in steps for part in self._rows.get(one, [])]
        if not parts:
            return math.nan
        rows = Rows.concatenate(parts)
        rows = rows.take((rows.event_time >= begin_ms) & (rows.event_time < end_ms))
        return metrics.gauc(rows.user, rows.click, rows.probability).weighted

    def _window(self, step: int) -> Rows:
        steps = range(step - self._steps + 1, step + 1)
        parts = [part for one in steps for part in self._rows.get(one, [])]
        return Rows.concatenate(parts) if parts else NO_ROWS

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
        oldest = min(self._rows)
        self._held -= sum(len(part) for part in self._rows.pop(oldest))
        self._frozen = oldest
