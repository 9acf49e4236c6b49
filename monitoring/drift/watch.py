"""What the monitor plugs in: predictions and impressions in, alarms and figures out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.drift.detectors import watchers_of
from monitoring.drift.features import FeatureDistances, FeatureSketches
from monitoring.drift.settings import DAY_HOURS, Domain, DriftConfig, Signal
from monitoring.drift.signals import SIGNALS, SUMS, Baseline, Sums, sums_by_step, values_of
from streaming.impressions import ImpressionSchema

DOMAINS: tuple[Domain, ...] = get_args(Domain)
KEPT_ALARMS = 100
_JSON = "watch"


@dataclass(frozen=True)
class Alarm:
    """A detector's word that a signal has changed for good."""

    event_time: int  # end of the step that showed it, ms
    domain: str
    signal: str
    detector: str
    statistic: float  # what the detector decided by


@dataclass(frozen=True)
class DriftFigures:
    """Everything that is measured, at present."""

    signals: dict[tuple[str, str], float]  # domain, signal: value of the last step
    statistics: dict[tuple[str, str, str], float]  # domain, signal, detector
    features: dict[str, FeatureDistances]  # by domain
    domain_js: dict[str, float]  # by feature: natural from ad


class SignalWatch:
    """One signal of one domain: its baseline and its detectors, which begin anew together."""

    def __init__(self, domain: str, signal: Signal, config: DriftConfig) -> None:
        self.domain, self.signal, self._config = domain, signal, config
        self.value = math.nan
        self._begin()

    def _begin(self) -> None:
        config = self._config
        per_day = DAY_HOURS // config.step_hours
        self._baseline = Baseline(config.baseline_days, config.warm_up_days, per_day)
        self._detectors = watchers_of(self.signal, config)

    def update(self, step: int, value: float) -> list[Alarm]:
        """The value of the next step in order, NaN without one; alarms, one a detector."""
        self.value = value
        distance = self._baseline.distance(step, value)
        for detector in self._detectors.values():
            detector.update(distance)
        end = (step + 1) * self._config.step_ms
        alarms = [
            Alarm(end, self.domain, self.signal, name, detector.statistic)
            for name, detector in self._detectors.items()
            if detector.drift_detected
        ]
        if alarms:  # what comes now is the new normal
            self._begin()
        return alarms

    def statistics(self) -> dict[str, float]:
        return {name: detector.statistic for name, detector in self._detectors.items()}

    def state(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "baseline": self._baseline.state(),
            "detectors": {name: d.state() for name, d in self._detectors.items()},
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]
        self._baseline.from_state(state["baseline"])
        for name, detector in self._detectors.items():
            if name in state["detectors"]:
                detector.from_state(state["detectors"][name])


class DomainWatch:
    """Steps and features of one domain."""

    def __init__(self, domain: Domain, schema: ImpressionSchema, config: DriftConfig) -> None:
        self._config = config
        self._open: dict[int, Sums] = {}  # by step's number
        self._next: int | None = None  # first step that is not complete; None: none seen
        self.late = 0
        self.signals = [SignalWatch(domain, signal, config) for signal in SIGNALS]
        self.features = FeatureSketches(schema, config)

    def update(self, event_time: NDArray, click: NDArray, probability: NDArray) -> None:
        self.features.add_scores(event_time, probability)
        found = sums_by_step(event_time, click, probability, self._config.step_ms)
        for step, sums in found.items():
            if self._next is not None and step < self._next:
                self.late += int(sums[0])
            else:
                self._open[step] = self._open.get(step, 0) + sums

    def advance(self, watermark_ms: int) -> list[Alarm]:
        self.features.advance(watermark_ms)
        done = watermark_ms // self._config.step_ms
        if self._next is None:
            if not self._open:
                return []
            self._next = min(self._open)
        # Of a long silence, only as much as a baseline holds has to be lived through.
        longest = self._config.baseline_days * DAY_HOURS // self._config.step_hours
        first = self._next
        if done - first > longest and not any(s < done - longest for s in self._open):
            first = done - longest
        alarms = [alarm for step in range(first, done) for alarm in self._complete(step)]
        self._next = max(self._next, done)
        return alarms

    def _complete(self, step: int) -> list[Alarm]:
        sums = self._open.pop(step, np.zeros(SUMS))
        values = values_of(sums, self._config.min_impressions)
        return [a for watch in self.signals for a in watch.update(step, values[watch.signal])]

    def state(self) -> dict[str, Any]:
        return {
            "step_hours": self._config.step_hours,
            "open": {str(step): sums.tolist() for step, sums in self._open.items()},
            "next": self._next,
            "late": self.late,
            "signals": {watch.signal: watch.state() for watch in self.signals},
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        if state["step_hours"] != self._config.step_hours:
            return
        self._open = {int(step): np.array(sums) for step, sums in state["open"].items()}
        self._next, self.late = state["next"], state["late"]
        for watch in self.signals:
            watch.from_state(state["signals"][watch.signal])


class DriftWatch:
    """Signals and features of both domains.

    Updates only count; what they come to is worked out by `advance`, when a step or a
    day is complete. Within a step, order does not matter but for rounding.
    """

    def __init__(self, config: DriftConfig, schema: ImpressionSchema) -> None:
        self._config = config
        self._domains = {domain: DomainWatch(domain, schema, config) for domain in DOMAINS}
        self._alarms: list[Alarm] = []

    def update_predictions(
        self, domain: Domain, event_time: NDArray, click: NDArray, probability: NDArray
    ) -> None:
        """Predictions of B impressions, each given once: ms, 0 or 1, and probability [B].

        :meth:`DriftConfig.domain_of` says which level's belong to which domain.
        """
        self._domains[domain].update(event_time, click, probability)

    def update_impressions(self, domain: Domain, rows: pa.RecordBatch) -> None:
        """B impressions in the canonical schema, each given once."""
        self._domains[domain].features.add(rows)

    def advance(self, domain: Domain, watermark_ms: int) -> list[Alarm]:
        """Nothing of a domain earlier than the watermark is still to come; new alarms."""
        new = self._domains[domain].advance(watermark_ms)
        self._alarms = (self._alarms + new)[-KEPT_ALARMS:]
        return new

    def alarms(self) -> list[Alarm]:
        """The last KEPT_ALARMS, oldest first."""
        return list(self._alarms)

    @property
    def late(self) -> dict[str, int]:
        """By domain: predictions and impressions that came after their step or day was complete."""
        return {name: d.late + d.features.late for name, d in self._domains.items()}

    def figures(self) -> DriftFigures:
        watches = [watch for domain in self._domains.values() for watch in domain.signals]
        natural, ad = (self._domains[d].features for d in DOMAINS)
        return DriftFigures(
            signals={(w.domain, w.signal): w.value for w in watches},
            statistics={
                (w.domain, w.signal, name): x for w in watches for name, x in w.statistics().items()
            },
            features={name: d.features.distances() for name, d in self._domains.items()},
            domain_js=natural.distance_to(ad),
        )

    def state(self) -> dict[str, NDArray]:
        """All there is to know, as arrays without objects; see :meth:`from_state`."""
        plain = {
            "alarms": [asdict(alarm) for alarm in self._alarms],
            "domains": {name: domain.state() for name, domain in self._domains.items()},
        }
        found: dict[str, NDArray] = {_JSON: np.frombuffer(json.dumps(plain).encode(), np.uint8)}
        for name, domain in self._domains.items():
            found |= {f"{name}/{key}": x for key, x in domain.features.state().items()}
        return found

    @classmethod
    def from_state(
        cls, config: DriftConfig, schema: ImpressionSchema, state: Mapping[str, NDArray]
    ) -> DriftWatch:
        """One that goes on bit-equal under the same settings.

        Under other settings, what does not fit them any more begins anew.
        """
        watch = cls(config, schema)
        plain = json.loads(state[_JSON].tobytes())
        watch._alarms = [Alarm(**alarm) for alarm in plain["alarms"]]
        for name, domain in watch._domains.items():
            domain.from_state(plain["domains"][name])
            prefix = f"{name}/"
            parts = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
            domain.features.from_state(parts)
        return watch
