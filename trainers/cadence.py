"""When something is due by event time: at every multiple of an interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """Boundaries are the multiples of ``every_ms`` since 1970-01-01 UTC.

    Raises:
        ValueError: the interval is not positive.
    """

    every_ms: int

    def __post_init__(self) -> None:
        if self.every_ms <= 0:
            raise ValueError(f"every_ms = {self.every_ms} is not a positive number of milliseconds")

    def begin(self, watermark_ms: int) -> int:
        """The newest boundary at or before ``watermark_ms``: where a log that starts there
        starts counting, ms."""
        return watermark_ms // self.every_ms * self.every_ms

    def crossed(self, closed_ms: int, batch_watermark_ms: int) -> list[int]:
        """The boundaries b with ``closed_ms`` < b <= ``batch_watermark_ms``, ascending, ms."""
        first = self.begin(closed_ms) + self.every_ms
        return list(range(first, batch_watermark_ms + 1, self.every_ms))
