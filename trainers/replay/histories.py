"""TPM's snapshots on disk, and the historical embeddings that the refresher makes of them.

<folder>/1700006400000.npz      all buckets of the period that ends there
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embeddings.history import (
    KINDS,
    Snapshot,
    Window,
    empty_window,
    expire,
    merge,
    publish,
)
from embeddings.history_settings import HistoryConfig
from embeddings.history_store import HistoryStore
from streaming.impressions import EVENT_TIME, Batch, ImpressionSchema
from trainers.chunks import Make
from trainers.features import ModelBatch
from trainers.history_inputs import attach


def write_period(folder: Path, snapshots: list[Snapshot]) -> None:
    """The ``snapshots`` of one period, all buckets of both kinds."""
    arrays: dict[str, Any] = {}
    for snapshot in snapshots:
        name = f"{snapshot.kind}/{snapshot.bucket}"
        arrays |= {f"{name}/ids": snapshot.ids_N, f"{name}/vectors": snapshot.vectors_ND}
    np.savez(folder / f"{snapshots[0].period_end}.npz", **arrays)


def read_period(folder: Path, end: int, buckets: int) -> list[Snapshot]:
    with np.load(folder / f"{end}.npz", allow_pickle=False) as file:
        return [
            Snapshot(kind, b, end, file[f"{kind}/{b}/ids"], file[f"{kind}/{b}/vectors"])
            for kind in KINDS
            for b in range(buckets)
        ]


class Histories:
    """What a reader of historical embeddings knows, moved on by event time.

    Args:
        folder: of TPM's snapshots.
        dim: width of TPM's vectors.
    """

    def __init__(
        self, folder: Path, config: HistoryConfig, dim: int, schema: ImpressionSchema
    ) -> None:
        self._folder, self._config, self._dim, self._schema = folder, config, dim, schema
        self._ends = sorted(int(path.stem) for path in folder.glob("[0-9]*.npz"))
        self._coming = self._ends[::-1]
        self._windows: dict[tuple[str, int], Window] = {}
        self.store = HistoryStore.of(config, dim)

    def anew(self) -> Histories:
        """The same from the beginning, for a reader at another event time."""
        return Histories(self._folder, self._config, self._dim, self._schema)

    def reached(self, until: int) -> int:
        """How many periods end at ``until``, ms, or before."""
        return bisect_right(self._ends, until)

    def advance(self, until: int) -> None:
        """Take in the periods that end at ``until``, ms, or before."""
        while self._coming and self._coming[-1] <= until:
            self._take(self._coming.pop())

    def attach(
        self, batch: ModelBatch, rows: pa.RecordBatch, as_of: int | None = None
    ) -> ModelBatch:
        """``batch``, made of ``rows``, with what was known at each impression's event time.

        Args:
            as_of: instead, what is known at this time, ms, for all of them.
        """
        if as_of is not None:
            place = rows.schema.get_field_index(EVENT_TIME)
            times = pa.array(np.full(len(rows), as_of, np.int64))
            rows = rows.set_column(place, rows.schema.field(place), times)
        self.advance(int(rows.column(EVENT_TIME).to_numpy().max()))
        return attach(batch, rows, self.store, self._schema)

    def _take(self, end: int) -> None:
        config = self._config
        for snapshot in read_period(self._folder, end, config.buckets):
            bucket = (snapshot.kind, snapshot.bucket)
            before = self._windows.get(bucket)
            if before is None:
                before = empty_window(config.window, self._dim)
            self._windows[bucket] = expire(merge(before, snapshot), end, config.ttl_ms)
        self.store.apply({b: publish(w, config) for b, w in self._windows.items()})


def with_history(make: Make, histories: Histories | None) -> Make:
    """``make``, and then what was known at each impression's event time."""
    if histories is None:
        return make
    return lambda rows: histories.attach(make(rows), rows)


def reached(histories: Histories | None) -> Callable[[Batch], int]:
    """Tells batches apart that see more periods than those before: what they see is looked up
    before the next period may push it out."""
    return lambda batch: 0 if histories is None else histories.reached(batch.watermark)
