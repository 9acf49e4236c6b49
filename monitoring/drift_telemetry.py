"""What the monitor tells of drift."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from monitoring.drift.asking import Decision, Verdict
from monitoring.drift.watch import Alarm, DriftFigures
from monitoring.telemetry import _declare, _Telemetry
from streaming.control import ASKS

_WATCHED = ("domain", "signal", "detector")


class DriftTelemetry(_Telemetry):
    """Labels are bounded: two domains, four signals, three detectors, the schema's features."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._sampled: dict[Gauge, set[tuple[str, ...]]] = {}
        self._statistic = self._gauge(
            "drift_statistic", "What the detector decided by, in its own terms.", *_WATCHED
        )
        self._alarms = _declare(
            Counter, registry, "drift_alarms_total", "Alarms since the process started.", _WATCHED
        )
        self._alarmed_at = self._gauge(
            "drift_alarm_event_time_seconds", "Event time of the last alarm.", *_WATCHED
        )
        self._decisions = _declare(
            Counter,
            registry,
            "drift_decisions_total",
            "Alarms since the process started, by what became of the early refresh they ask for.",
            ("ask", "decision"),
        )
        for ask, verdict in itertools.product(ASKS, Verdict):
            self._decisions.labels(ask, verdict)
        self._psi = self._distance("drift_psi_ratio", "Population stability index")
        self._js = self._distance("drift_js_ratio", "Jensen-Shannon distance")
        self._unseen = self._gauge(
            "drift_unseen_ids_ratio",
            "Ids never seen before among those of the last complete day.",
            "domain",
            "feature",
        )
        self._domain_js = self._gauge(
            "drift_domain_js_ratio",
            "Jensen-Shannon distance between natural and ad impressions of the last complete day.",
            "feature",
        )

    def _distance(self, name: str, what: str) -> Gauge:
        doc = f"{what} of the last complete day from the days before it."
        return self._gauge(name, doc, "domain", "feature")

    def observe(self, figures: DriftFigures) -> None:
        """Everything as of now; what is NaN or not there has no sample. Counters begin at 0."""
        for watched in figures.statistics:
            self._alarms.labels(*watched)
        self._replace(self._statistic, figures.statistics)
        self._replace(self._psi, _labelled(figures, "psi"))
        self._replace(self._js, _labelled(figures, "js"))
        self._replace(self._unseen, _labelled(figures, "unseen"))
        self._replace(self._domain_js, {(name,): x for name, x in figures.domain_js.items()})

    def _replace(self, gauge: Gauge, values: Mapping[Any, float]) -> None:
        """Without ever taking a sample away that stays: a scrape may come at any moment."""
        for labels in self._sampled.get(gauge, set()) - set(values):
            gauge.remove(*labels)
        for labels, value in values.items():
            self._set(gauge, value, *labels)
        self._sampled[gauge] = set(values)

    def going_on(self, alarms: Iterable[Alarm]) -> None:
        """Alarms of an earlier process, oldest first: when the last one was."""
        for alarm in alarms:
            watched = alarm.domain, alarm.signal, alarm.detector
            self._set(self._alarmed_at, alarm.event_time / 1000, *watched)

    def alarmed(self, alarms: Iterable[Alarm]) -> None:
        """New ones, once each."""
        for alarm in alarms:
            self.going_on([alarm])
            self._alarms.labels(alarm.domain, alarm.signal, alarm.detector).inc()

    def decided(self, decision: Decision) -> None:
        """Once each, too."""
        self._decisions.labels(decision.request.ask, decision.verdict).inc()


def _labelled(figures: DriftFigures, distance: str) -> dict[tuple[str, ...], float]:
    return {
        (domain, feature): value
        for domain, found in figures.features.items()
        for feature, value in getattr(found, distance).items()
    }
