"""The features of one domain, day by day, against the days before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.drift import sketches
from monitoring.drift.seen import SeenIds
from monitoring.drift.settings import DAY_HOURS, HOUR_MS, DriftConfig
from monitoring.drift.sketches import SCORE, Counts
from streaming.impressions import EVENT_TIME, Feature, ImpressionSchema

DAY_MS = DAY_HOURS * HOUR_MS
_NONE = -(2**62)


@dataclass
class FeatureDistances:
    """Of the last complete day; NaN, or left out, where there is nothing to compare."""

    psi: dict[str, float] = field(default_factory=dict)
    js: dict[str, float] = field(default_factory=dict)
    unseen: dict[str, float] = field(default_factory=dict)


class FeatureSketches:
    """Counts of every feature, and of scores, by day: those still open and the last complete.

    Memory is bounded by ``reference_days`` and the number of days that arrive at a
    time. Rows of a day that is complete come too late and are counted in ``late``.
    """

    def __init__(self, schema: ImpressionSchema, config: DriftConfig) -> None:
        self._features = schema.features
        self._config = config
        self._numeric = {f.name for f in schema.numeric} | {SCORE}
        self._days: dict[int, dict[str, Counts]] = {}  # by day's number, open or complete
        self._new: dict[int, dict[str, NDArray]] = {}  # [2] ids new, ids in all
        self._seen = {f.name: SeenIds(config.seen_bits) for f in schema.features if f.kind == "id"}
        self._complete_to = _NONE  # days below this number are complete
        self.late = 0

    @property
    def names(self) -> list[str]:
        return [f.name for f in self._features] + [SCORE]

    def add(self, rows: pa.RecordBatch) -> None:
        """Impressions [B] in the canonical schema."""
        for day, index in self._by_day(rows.column(EVENT_TIME).to_numpy()):
            part = rows if len(index) == len(rows) else rows.take(pa.array(index))
            for feature in self._features:
                self._count(
                    day, feature.name, self._counts(feature, part.column(feature.name), day)
                )

    def add_scores(self, event_time: NDArray, probability: NDArray) -> None:
        """Predicted probabilities [B] at event times [B], ms."""
        for day, index in self._by_day(event_time):
            self._count(day, SCORE, sketches.numeric_counts(probability[index]))

    def _by_day(self, event_time: NDArray) -> Iterator[tuple[int, NDArray]]:
        days = event_time // DAY_MS
        for day in np.unique(days).tolist():
            index = np.flatnonzero(days == day)
            if day < self._complete_to:
                self.late += len(index)
            else:
                yield day, index

    def _counts(self, feature: Feature, column: pa.Array, day: int) -> Counts:
        if feature.kind == "numeric":
            return sketches.numeric_counts(column.fill_null(math.nan).to_numpy())
        values, missing = sketches.integers(feature, column)
        if feature.kind == "id":
            new = np.array([self._seen[feature.name].first_seen(values), len(values)])
            of_day = self._new.setdefault(day, {})
            of_day[feature.name] = of_day.get(feature.name, 0) + new
        return sketches.hashed_counts(values, self._config.hash_buckets, missing)

    def _count(self, day: int, name: str, counts: Counts) -> None:
        of_day = self._days.setdefault(day, {})
        of_day[name] = of_day[name] + counts if name in of_day else counts

    def advance(self, watermark_ms: int) -> bool:
        """Nothing earlier than the watermark comes any more; whether a day became complete."""
        done = watermark_ms // DAY_MS
        if done <= self._complete_to:
            return False
        self._complete_to = done
        for kept in (self._days, self._new):
            for day in [d for d in kept if d < done - 1 - self._config.reference_days]:
                del kept[day]
        return True

    def of_last_day(self, name: str) -> Counts | None:
        return self._days.get(self._complete_to - 1, {}).get(name)

    def distances(self) -> FeatureDistances:
        """Of the last complete day from the ``reference_days`` before it."""
        last = self._complete_to - 1
        found = FeatureDistances()
        for name, current in self._days.get(last, {}).items():
            before = [
                self._days[day][name]
                for day in range(last - self._config.reference_days, last)
                if name in self._days.get(day, {})
            ]
            reference = np.sum(before, axis=0) if before else np.zeros_like(current)
            found.psi[name], found.js[name] = self._compare(name, reference, current)
        for name, (new, ids) in self._new.get(last, {}).items():
            found.unseen[name] = new / ids if ids else math.nan
        return found

    def _compare(self, name: str, reference: Counts, current: Counts) -> tuple[float, float]:
        if self._too_few(reference, current):
            return math.nan, math.nan
        if name in self._numeric:
            group = sketches.quantile_groups(reference)
            reference, current = (sketches.grouped(c, group) for c in (reference, current))
        return sketches.psi(reference, current), sketches.js_distance(reference, current)

    def distance_to(self, other: FeatureSketches) -> dict[str, float]:
        """Jensen-Shannon distance of every feature between two domains' last complete days."""
        found = {}
        for name in self.names:
            left, right = self.of_last_day(name), other.of_last_day(name)
            if left is not None and right is not None:
                found[name] = self._between(name, left, right)
        return found

    def _between(self, name: str, left: Counts, right: Counts) -> float:
        if self._too_few(left, right):
            return math.nan
        if name in self._numeric:
            group = sketches.quantile_groups(left + right)
            left, right = (sketches.grouped(c, group) for c in (left, right))
        return sketches.js_distance(left, right)

    def _too_few(self, *sides: Counts) -> bool:
        return min(int(counts.sum()) for counts in sides) < self._config.min_compared

    def state(self) -> dict[str, NDArray]:
        found = {"progress": np.array([self._complete_to, self.late])}
        for name, seen in self._seen.items():
            found[f"seen/{name}"] = seen.state()
        for kind, kept in (("counts", self._days), ("new", self._new)):
            for day, by_name in kept.items():
                for name, counts in by_name.items():
                    found[f"{kind}/{day}/{name}"] = counts
        return found

    def from_state(self, state: Mapping[str, NDArray]) -> None:
        """Take over what is known of the features that there are; others are forgotten."""
        self._complete_to, self.late = (int(x) for x in state["progress"])
        for name, seen in self._seen.items():
            if f"seen/{name}" in state:
                seen.from_state(state[f"seen/{name}"])
        for key, counts in state.items():
            kind, _, rest = key.partition("/")
            if kind in ("counts", "new"):
                day, _, name = rest.partition("/")
                if name in self.names and self._fits(kind, name, counts):
                    kept = self._days if kind == "counts" else self._new
                    kept.setdefault(int(day), {})[name] = counts.copy()

    def _fits(self, kind: str, name: str, counts: NDArray) -> bool:
        if kind == "new":
            return name in self._seen
        width = sketches.NUMERIC_BINS if name in self._numeric else self._config.hash_buckets + 1
        return len(counts) == width
