"""A small store of historical embeddings, and batches that are read one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from log_support import START_MS, impressions

from embeddings.history import KINDS, Snapshot, Window, bucket_of, empty_window, merge, publish
from embeddings.history_settings import HistoryConfig
from embeddings.history_store import HistoryStore
from streaming.impressions import Batch, SourceRows

DIM = 4
EARLY, LATE = START_MS + 100, START_MS + 200
"""Periods' ends: at the impressions 10 and 20 of `log_support`."""
USERS, ITEMS = 10, 20
"""Users 0 to 9 and items 0 to 19 were seen in both periods."""


def window_of(kind: str, bucket: int, config: HistoryConfig, *ends: int) -> Window:
    """What is published of a bucket after one or two periods: the entity i has vectors full
    of i + 1 of the early one, and of -(i + 1) of the late one."""
    ids_N = np.arange(USERS if kind == "user" else ITEMS)
    own_N = ids_N[bucket_of(ids_N, config.buckets) == bucket]
    window = empty_window(config.window, DIM)
    for end, sign in zip(ends, (1, -1), strict=False):
        value_N1 = sign * (own_N[:, None] + 1)
        vectors_ND = np.repeat(value_N1, DIM, 1).astype(np.float16)
        window = merge(window, Snapshot(kind, bucket, end, own_N, vectors_ND))
    return publish(window, config)


def small_store(aggregation: str = "attention", versions: int = 2) -> HistoryStore:
    """Of both periods."""
    config = HistoryConfig(periods=2, aggregation=aggregation, buckets=2, versions=versions)
    made = HistoryStore.of(config, DIM)
    for kind in KINDS:
        for bucket in range(config.buckets):
            made.replace(kind, bucket, window_of(kind, bucket, config, EARLY, LATE))
    return made


def batch_of(ids: Iterable[int]) -> Batch:
    ids_N = np.fromiter(ids, np.int64)
    source = SourceRows(np.zeros(len(ids_N), np.int32), ids_N, np.zeros(len(ids_N), np.int32))
    return Batch(impressions(ids_N), source, {}, watermark=START_MS + 10 * int(ids_N.max()))


class Listed:
    """A reader of batches in memory."""

    def __init__(self, *batches: Batch) -> None:
        self._batches = deque(batches)

    @property
    def finished(self) -> bool:
        return not self._batches

    def next_batch(self, timeout: float) -> Batch | None:
        return self._batches.popleft() if self._batches else None
