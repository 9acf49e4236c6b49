"""What CPM and A-CTR tell of hand-downs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from monitoring.telemetry import _Telemetry

HAND_DOWN_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class HandDownTelemetry(_Telemetry):
    """One rank of one level."""

    def __init__(self, registry: CollectorRegistry, level: str, rank: int = 0) -> None:
        super().__init__(registry, level=level, rank=str(rank))
        self._boundary = self._gauge(
            "hand_down_event_time_seconds", "Event time of the last hand-down made or taken over."
        )
        self._bytes = self._gauge("hand_down_bytes", "Size of the last hand-down made.")
        self._left = self._gauge(
            "hand_down_batches_left",
            "Batches until A-CTR's successor has caught up; 0: there is none.",
        )
        self._seconds = self._histogram(
            "hand_down_seconds", "Making a hand-down, or taking one over.", HAND_DOWN_BUCKETS
        )

    def going_on(self, boundary_ms: int) -> None:
        """The last hand-down of an earlier process."""
        self._set(self._boundary, boundary_ms / 1000)

    def made(self, size: int) -> None:
        self._set(self._bytes, size)

    def preparing(self, left: int) -> None:
        """A successor has to learn ``left`` batches before it takes over; 0: there is none."""
        self._set(self._left, left)

    def done(self, boundary_ms: int, seconds: float) -> None:
        """A hand-down was made or taken over, which held the loop up for ``seconds``."""
        self._set(self._boundary, boundary_ms / 1000)
        self._seconds.observe(seconds)
