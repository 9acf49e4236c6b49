"""How impressions are dealt out to partitions and records, as pure functions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streaming.market_random import mix64

MAX_RECORD_ROWS = 256
_HOUR_MS = 3_600_000


def partition_of(user_id: np.ndarray, partitions: int) -> np.ndarray:
    """int64 [N]: a stable hash of the user, modulo the number of partitions."""
    hashed = mix64(user_id.astype(np.uint64))
    return (hashed % np.uint64(partitions)).astype(np.int64)


def hourly_records(times: np.ndarray) -> Iterator[tuple[int, int]]:
    """Row ranges of at most MAX_RECORD_ROWS within one hour of event time.

    Partitions are interleaved record by record: a record that spans a sparse day
    would hold back, or run ahead of, every other partition.
    """
    hours = np.flatnonzero(np.diff(times // _HOUR_MS)) + 1
    edges = [0, *hours.tolist(), len(times)]
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        for start in range(begin, end, MAX_RECORD_ROWS):
            yield start, min(start + MAX_RECORD_ROWS, end)
