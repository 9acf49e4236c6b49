"""The quality of one level's predictions: by window of event time, and by generation. Pure.

What is held depends only on which predictions and announcements were read, never on the
order of partitions, on how they were cut into batches, or on a restart between: rows whose
window may still be told of, and rows of the last generations. Every number is computed
from its rows in one canonical order, so that it is the same to the bit.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.metrics import Bin, calibration
from monitoring.monitor_settings import MonitorConfig
from monitoring.sampled_rows import Predicted, SampledRows, no_rows
from monitoring.watermark import NEVER, Watermark
from monitoring.window import WindowMetrics, measure

_METRICS = tuple(field.name for field in fields(WindowMetrics))
_WHOLE = {"groups_used", "groups_skipped", "impressions"}


@dataclass(frozen=True)
class WindowPoint:
    """One complete window."""

    end: int  # event time, ms
    metrics: WindowMetrics


@dataclass(frozen=True)
class Generation:
    """A published version and the predictions that were made with it, or between it and the
    next. Version 0: before anything was published."""

    version: int
    published_at: int  # wall clock, ms; 0: not known
    begin: int  # event time of its first and last prediction, ms; 0: there is none
    end: int
    metrics: WindowMetrics


@dataclass(frozen=True)
class Quality:
    """What there is to tell of one level."""

    newest: int  # greatest event time predicted, ms; 0: none
    complete: dict[int, WindowPoint]  # window length in ms to its newest complete window
    points: dict[int, list[WindowPoint]]  # the same length to all that are remembered
    deciles: list[Bin]  # of the longest window
    generations: list[Generation]  # oldest first
    sample: float  # share of users whose predictions are held


class LevelQuality:
    """Takes predictions and announcements in any order; :meth:`quality` is what they come to."""

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._lateness = 1_000 * config.lateness_seconds
        self._step = min(config.windows_ms)
        self._held = SampledRows(self._step, config.max_rows)
        self._time = Watermark()
        self._source_newest: dict[int, int] = {}  # impressions' partition to event time, ms
        self._first = 2**62  # least event time seen, ms
        self._horizon = 0  # steps before it belong to no window that may change
        self._versions: dict[int, int] = {}  # of the last announcements, to wall clock, ms
        self._reached = 0  # greatest version of a prediction; those announced beyond it wait
        self._oldest = 0  # version of which, and of all later ones, every prediction is held
        self._points: dict[int, dict[int, WindowPoint]] = {w: {} for w in config.windows_ms}
        self._changed: dict[int, set[int]] = {w: set() for w in config.windows_ms}
        self._generations: dict[int, Generation] = {}  # as last measured
        self._stale: set[int] = set()
        self._deciles: dict[int, list[Bin]] = {}  # of the longest window that they are of
        self.predictions = 0
        """Ever given."""
        self.late = 0
        """Of these, those whose shortest window had ended when an earlier one of the same
        partition of impressions was predicted."""

    @property
    def watermark(self) -> int:
        """Event time before which nothing is to come but what is late, ms."""
        return self._time.value

    # -- what comes in ------------------------------------------------------------------

    def update(self, rows: Predicted, partition: int, source_N: NDArray[np.integer]) -> None:
        """Rows of one partition of the level's topic, in the order of its log.

        ``source_N``: the partition of impressions that each of them comes from.
        """
        if not len(rows):
            return
        self.predictions += len(rows)
        for source in np.unique(source_N).tolist():
            self._count_late(source, rows.event_time[source_N == source])
        self._time.note(partition, rows.event_time)
        self._first = min(self._first, int(rows.event_time.min()))
        self._reach(int(rows.version.max()))
        for version in rows.version[np.flatnonzero(np.diff(rows.version, prepend=-1))].tolist():
            self._stale.add(self._generation_of(version))
        for step, part in self._held.rows.split(rows):
            if step < self._horizon:
                part = part.take(part.version >= self._oldest)
            if len(part):
                self._held.add(step, part)
                for window in self._points:
                    self._changed[window].add(step * self._step // window)

    def announce(self, version: int, at: int) -> None:
        """``version`` was published at ``at``, ms; once again changes nothing."""
        if version in self._versions or version < self._oldest:
            return
        if version <= self._reached:
            self._stale |= {self._generation_of(version), version}
        self._versions[version] = at
        self._retire()

    def _reach(self, version: int) -> None:
        """A prediction of ``version`` was read: what was announced up to there counts now.

        Predictions may be read long after the announcements, which must not take the place
        of versions whose predictions are there.
        """
        if version <= self._reached:
            return
        begun = {v for v in self._versions if self._reached < v <= version}
        self._stale |= {self._generation_of(self._reached), *begun}
        self._reached = version
        self._retire()

    def _retire(self) -> None:
        kept = self._boundaries()
        self._oldest = kept[0]
        self._versions = {v: at for v, at in self._versions.items() if v >= self._oldest}
        self._generations = {v: g for v, g in self._generations.items() if v in kept}
        self._stale &= set(kept)

    def advance(self, behind: Collection[int] = ()) -> None:
        """Let event time go on to what was read, but for the partitions ``behind``.

        Those are partitions that hold more than was read of them: no window is complete
        before they have passed its end.
        """
        if self._time.advance(behind) == NEVER:
            return
        horizon = min(self._last_complete(w) * w for w in self._points) // self._step
        if horizon > self._horizon:
            self._measure_windows(before=horizon)
            self._horizon = horizon
        self._held.drop(self._horizon, self._oldest)

    def _count_late(self, source: int, event_time_N: NDArray[np.int64]) -> None:
        before = self._source_newest.get(source, NEVER)
        newest_N = np.maximum.accumulate(np.concatenate(([before], event_time_N)))
        ends_N = (event_time_N // self._step + 1) * self._step + self._lateness
        self.late += int((ends_N <= newest_N[:-1]).sum())
        self._source_newest[source] = int(newest_N[-1])

    # -- generations --------------------------------------------------------------------

    def _boundaries(self) -> list[int]:
        """First versions of the generations that are held."""
        known = sorted(v for v in {0, *self._versions} if self._oldest <= v <= self._reached)
        return known[-self._config.generations :]

    def _generation_of(self, version: int) -> int:
        kept = self._boundaries()
        return kept[max(0, bisect.bisect_right(kept, version) - 1)]

    # -- what comes out -----------------------------------------------------------------

    def quality(self) -> Quality:
        """Measures what has changed since the last time."""
        self._measure_windows()
        self._measure_generations()
        return Quality(
            newest=self._time.newest,
            complete={w: p for w in self._points if (p := self._newest_point(w)) is not None},
            points={w: [of[k] for k in sorted(of)] for w, of in self._points.items()},
            deciles=self._measured_deciles(),
            generations=[self._generations[v] for v in self._boundaries()],
            sample=self._held.share,
        )

    def _last_complete(self, window: int) -> int:
        return (self.watermark - self._lateness) // window - 1

    def _measure_windows(self, before: int | None = None) -> None:
        """The complete ones that changed; with ``before`` those that begin before that step."""
        for window, changed in self._changed.items():
            last = self._last_complete(window)
            for k in sorted(changed):
                if k > last or (before is not None and k * window >= before * self._step):
                    continue
                changed.discard(k)
                if k * window >= self._horizon * self._step:
                    self._points[window][k] = self._point(window, k)
                    self._deciles.clear()
            points = self._points[window]
            for k in sorted(points)[: -self._config.points]:
                del points[k]

    def _point(self, window: int, k: int) -> WindowPoint:
        return WindowPoint((k + 1) * window, measured(self._rows_of(window, k)))

    def _rows_of(self, window: int, k: int) -> Predicted:
        each = window // self._step
        return self._held.between(k * each, (k + 1) * each - 1)

    def _newest_point(self, window: int) -> WindowPoint | None:
        """None: none is complete since the first prediction."""
        k = self._last_complete(window) if self.watermark != NEVER else NEVER
        if k < self._first // window:
            return None
        empty = WindowPoint((k + 1) * window, measured(no_rows()))
        return self._points[window].get(k, empty)

    def _measured_deciles(self) -> list[Bin]:
        """Of the longest window's newest complete one."""
        longest = max(self._points)
        newest = self._newest_point(longest)
        if newest is None:
            return []
        if newest.end not in self._deciles:
            rows = _ordered(self._rows_of(longest, newest.end // longest - 1))
            self._deciles = {newest.end: calibration(rows.click, rows.probability)}
        return self._deciles[newest.end]

    def _measure_generations(self) -> None:
        kept = self._boundaries()
        for version, before in zip(kept, [*kept[1:], None], strict=True):
            if version in self._stale or version not in self._generations:
                rows = self._held.of_versions(version, before)
                self._generations[version] = self._generation(version, rows)
        self._stale.clear()

    def _generation(self, version: int, rows: Predicted) -> Generation:
        return Generation(
            version=version,
            published_at=self._versions.get(version, 0),
            begin=int(rows.event_time.min()) if len(rows) else 0,
            end=int(rows.event_time.max()) if len(rows) else 0,
            metrics=measured(rows),
        )

    # -- for a checkpoint ---------------------------------------------------------------

    def state(self) -> dict[str, NDArray]:
        """All there is to know; see :meth:`restore`."""
        pairs = {
            "source_newest": self._source_newest,
            "versions": self._versions,
        }
        return {
            **{f"held.{name}": array for name, array in self._held.state().items()},
            **{name: _pairs(of) for name, of in pairs.items()},
            **{f"points.{w}": _as_array(of) for w, of in self._points.items()},
            **{f"changed.{w}": np.array(sorted(of), np.int64) for w, of in self._changed.items()},
            "time": np.array(self._time.state()),
            "scalars": np.array(
                [
                    self._first,
                    self._horizon,
                    self._oldest,
                    self._reached,
                    self.predictions,
                    self.late,
                ]
            ),
        }

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Go on from :meth:`state` of the same windows.

        Raises:
            KeyError: the state has other windows.
        """
        own = {n.removeprefix("held."): a for n, a in state.items() if n.startswith("held.")}
        self._held.restore(own)
        self._time = Watermark.from_state(state["time"].tolist())
        self._source_newest = dict(state["source_newest"].tolist())
        self._versions = dict(state["versions"].tolist())
        for window in self._points:
            self._points[window] = _as_points(window, state[f"points.{window}"])
            self._changed[window] = set(state[f"changed.{window}"].tolist())
        first, horizon, oldest, reached, predictions, late = state["scalars"].tolist()
        self._first, self._horizon = first, horizon
        self._oldest, self._reached = oldest, reached
        self.predictions, self.late = predictions, late


def measured(rows: Predicted) -> WindowMetrics:
    """The metrics of rows in whatever order."""
    rows = _ordered(rows)
    return measure(rows.user, rows.click, rows.probability)


def _ordered(rows: Predicted) -> Predicted:
    """By user, prediction and click: sums of floats depend on the order."""
    bits = np.ascontiguousarray(rows.probability, np.float32).view(np.uint32)
    key = (bits.astype(np.uint64) << np.uint64(1)) | rows.click.astype(np.uint64)
    return rows.take(np.lexsort((key, rows.user)))


def _pairs(of: Mapping[int, int]) -> NDArray[np.int64]:
    return np.array(sorted(of.items()), np.int64).reshape(-1, 2)


def _as_array(points: Mapping[int, WindowPoint]) -> NDArray[np.float64]:
    rows: list[list[Any]] = [
        [points[k].end, *asdict(points[k].metrics).values()] for k in sorted(points)
    ]
    return np.array(rows, np.float64).reshape(-1, 1 + len(_METRICS))


def _as_points(window: int, rows: NDArray[np.float64]) -> dict[int, WindowPoint]:
    points = {}
    for end, *values in rows.tolist():
        found = dict(zip(_METRICS, values, strict=True))
        whole = {name: int(found[name]) for name in _WHOLE}
        points[int(end) // window - 1] = WindowPoint(int(end), WindowMetrics(**{**found, **whole}))
    return points
