"""What a trainer that reads historical embeddings tells of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from monitoring.telemetry import _Telemetry


class HistoryTelemetry(_Telemetry):
    """One rank of one level; cheap enough for every batch."""

    def __init__(self, registry: CollectorRegistry, level: str, rank: int = 0) -> None:
        super().__init__(registry, level=level, rank=str(rank))
        self._known = self._gauge(
            "impressions_with_history_ratio",
            "Impressions lately predicted whose user or item has a historical embedding.",
            "kind",
        )
        self._age = self._gauge(
            "history_age_seconds",
            "Event time from the end of the newest period that is complete to the batch.",
        )
        self._waiting = self._counter(
            "history_wait_seconds_total", "Time that batches were held back for their history."
        )
        self._outrun = self._counter(
            "history_outrun_total",
            "Look-ups for which an older vector may have been due than any that is kept.",
        )

    def known(self, share_by_kind: Mapping[str, float]) -> None:
        """Shares from 0 to 1; NaN where nothing was predicted."""
        for kind, share in share_by_kind.items():
            self._set(self._known, share, kind)

    def age(self, watermark_ms: int, period_end_ms: int) -> None:
        """``period_end_ms``: 0 where no period is complete."""
        age_ms = watermark_ms - period_end_ms if period_end_ms else math.nan
        self._set(self._age, age_ms / 1000)

    def waited(self, seconds: float) -> None:
        self._waiting.inc(seconds)

    def outrun(self, look_ups: int) -> None:
        self._outrun.inc(look_ups)
