"""What a level tells that publishes its vectors at the end of every period."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from monitoring.telemetry import _Telemetry

SNAPSHOT_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class PeriodTelemetry(_Telemetry):
    """One rank of one level; only rank 0 is told of periods."""

    def __init__(self, registry: CollectorRegistry, level: str, rank: int = 0) -> None:
        super().__init__(registry, level=level, rank=str(rank))
        self._period_end = self._gauge(
            "period_end_seconds", "Event time at which the last closed period ended."
        )
        self._entities = self._gauge(
            "snapshot_entities", "Vectors in the last period's snapshot.", "kind"
        )
        self._seconds = self._histogram(
            "snapshot_seconds", "Taking and sending a period's vectors.", SNAPSHOT_BUCKETS
        )

    def going_on(self, period_end_ms: int) -> None:
        """The last period that an earlier process closed."""
        self._set(self._period_end, period_end_ms / 1000)

    def closed(self, period_end_ms: int, entities: Mapping[str, int], seconds: float) -> None:
        """A period was closed; ``entities``: vectors sent, by kind."""
        self._set(self._period_end, period_end_ms / 1000)
        for kind, count in entities.items():
            self._set(self._entities, count, kind)
        self._seconds.observe(seconds)
