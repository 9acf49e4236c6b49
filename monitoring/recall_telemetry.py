"""What a level tells that holds impressions back to measure forgetting on."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from monitoring.telemetry import _Telemetry


class RecallTelemetry(_Telemetry):
    """One rank of one level; what it comes to is announced with every version, and the
    monitor's to tell."""

    def __init__(self, registry: CollectorRegistry, level: str, rank: int = 0) -> None:
        super().__init__(registry, level=level, rank=str(rank))
        self._held_back = self._counter(
            "held_back_impressions_total",
            "Impressions predicted and not learnt, to measure forgetting on.",
        )
        self._held = self._gauge(
            "recall_impressions", "Held-back impressions kept, to be scored by each version."
        )

    def held_back(self, count: int) -> None:
        self._held_back.inc(count)

    def held(self, impressions: int) -> None:
        self._set(self._held, impressions)
