"""What a worker of the refresher tells of the partitions that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from embeddings.history import KINDS, Window
from embeddings.refresh_shard import Shard
from embeddings.refresh_statistics import Statistics, statistics, total


class Telemetry(Protocol):
    """Where it is told; see `monitoring.telemetry.RefresherTelemetry`."""

    def snapshot(self, outcome: str) -> None: ...
    def published(self, records: int, tombstones: int) -> None: ...
    def rebuilt(self) -> None: ...
    def refreshed(self, seconds: float) -> None: ...
    def entities(self, kind: str, entities: int, coverage: float, distance: float) -> None: ...
    def table(self, bytes_held: int) -> None: ...
    def periods(self, newest_ms: int, staleness_ms: int) -> None: ...


class Observer:
    """Adds the buckets up; only those that changed are looked at again."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._known: dict[tuple[int, bytes], tuple[Window, Statistics]] = {}

    def look(self, shards: Mapping[int, Shard], newest_ms: int) -> None:
        """Tell of ``shards``; ``newest_ms`` is the newest period end of all, ms."""
        self._known = {
            (p, key): self._statistics((p, key), window)
            for p, shard in shards.items()
            for key, window in shard.windows.items()
        }
        for kind in KINDS:
            self._tell_entities(kind)
        self._telemetry.table(sum(shard.table_bytes for shard in shards.values()))
        # A bucket of nobody that no snapshot speaks of any more is not behind.
        ends = [window.newest_period_end for window, _ in self._known.values() if len(window)]
        self._telemetry.periods(newest_ms, newest_ms - min(ends, default=newest_ms))

    def _statistics(self, at: tuple[int, bytes], window: Window) -> tuple[Window, Statistics]:
        known = self._known.get(at)
        return known if known and known[0] is window else (window, statistics(window))

    def _tell_entities(self, kind: str) -> None:
        prefix = f"{kind}/".encode()
        of_kind = total(s for (_, key), (_, s) in self._known.items() if key.startswith(prefix))
        self._telemetry.entities(kind, of_kind.entities, of_kind.coverage, of_kind.mean_distance)
