"""Snapshots of a small world, and what the pure functions make of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from embeddings.history import KINDS, Snapshot, bucket_of, empty_window, expire, merge, publish
from embeddings.history_records import encode_window, record_key
from embeddings.history_settings import HistoryConfig

DAY = 86_400_000
DIM = 4


def history_config(**more) -> HistoryConfig:
    return HistoryConfig(
        **{"periods": 2, "versions": 2, "buckets": 4, "period_hours": 24, "ttl_hours": 240} | more
    )


def period(
    day: int, buckets: int = 4, entities: int = 60, seed: int = 0, of: range = range(200)
) -> list[Snapshot]:
    """All buckets of both kinds at the end of ``day``; which entities, and vectors, by seed."""
    rng = np.random.default_rng([seed, day])
    made = []
    for kind in KINDS:
        ids_N = np.sort(rng.choice(np.array(of), min(entities, len(of)), replace=False))
        bucket_N = bucket_of(ids_N, buckets)
        for bucket in range(buckets):
            own_M = ids_N[bucket_N == bucket]
            vectors_MD = rng.normal(size=(len(own_M), DIM)).astype(np.float16)
            made.append(Snapshot(kind, bucket, day * DAY, own_M, vectors_MD))
    return made


def expected(snapshots: Iterable[Snapshot], config: HistoryConfig) -> dict[bytes, bytes | None]:
    """Record key to what readers must find in the end; None: taken back."""
    windows, now_ms = {}, 0
    for snapshot in snapshots:
        key = snapshot.kind, snapshot.bucket
        before = windows.get(key, empty_window(config.window, snapshot.dim))
        windows[key] = merge(before, snapshot)
        now_ms = max(now_ms, snapshot.period_end)
    found: dict[bytes, bytes | None] = {}
    for (kind, bucket), window in windows.items():
        left = expire(window, now_ms, config.ttl_ms)
        over = not len(left) and left.newest_period_end < now_ms - config.ttl_ms
        value = encode_window(kind, bucket, publish(left, config))
        found[record_key(kind, bucket)] = None if over else value
    return found
