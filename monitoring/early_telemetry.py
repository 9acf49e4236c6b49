"""What TPM and CPM tell of early periods and hand-downs that they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from monitoring.telemetry import _Telemetry


class EarlyTelemetry(_Telemetry):
    """One rank of one level; only rank 0 is asked. ``outcomes``: all that there are."""

    def __init__(
        self, registry: CollectorRegistry, level: str, rank: int, outcomes: Iterable[str]
    ) -> None:
        super().__init__(registry, level=level, rank=str(rank))
        self._requests = self._counters_of(
            "early_requests_total",
            "Requests for an early period or hand-down since the process started, by outcome.",
            "outcome",
            outcomes,
        )

    def request(self, outcome: str) -> None:
        self._count(self._requests, 1, outcome)
