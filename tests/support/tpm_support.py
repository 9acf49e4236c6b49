"""TPM's settings in tests, what it sent, and what its tables hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from trainer_support import HELD_BACK, SETTINGS, records_of

from embeddings.history_records import decode_snapshot
from embeddings.ids import ID_SPACE, gather
from embeddings.local_tables import local_tables
from streaming.connection import KafkaConfig
from streaming.topics import TopicsConfig

PERIOD_MS = 800_000  # 800 impressions; those of trainer_support begin with a period
BUCKETS = 4
KINDS = ("user", "item")

TPM_SETTINGS = (
    SETTINGS.replace("actr", "tpm")
    .replace("cross_layers = 1", "cross_layers = 0")
    .replace(f"share = {HELD_BACK}", "share = 0")
    + f"""
[history]
period_hours = {PERIOD_MS / 3_600_000!r}
buckets = {BUCKETS}
"""
)

Sent = dict[tuple[int, str, int], bytes]
"""(period end, kind, bucket) to the snapshot's bytes."""


def sent_by(kafka: KafkaConfig, topics: TopicsConfig) -> tuple[Sent, int]:
    """What is in the topic of snapshots, and how many records repeated another's bytes."""
    found: Sent = {}
    repeated = 0
    for record in records_of(kafka, topics.snapshots):
        snapshot = decode_snapshot(record.value)
        name = (snapshot.period_end, snapshot.kind, snapshot.bucket)
        assert record.key == f"{snapshot.kind}/{snapshot.bucket}".encode()
        repeated += name in found
        assert found.setdefault(name, record.value) == record.value
    return found, repeated


def vectors_in(sent: Sent, period_end: int, kind: str) -> dict[int, bytes]:
    """Raw id to the bytes of its vector, of all buckets of one period."""
    found: dict[int, bytes] = {}
    for bucket in range(BUCKETS):
        snapshot = decode_snapshot(sent[period_end, kind, bucket])
        vectors = (vector.tobytes() for vector in snapshot.vectors_ND)
        found |= dict(zip(snapshot.ids_N.tolist(), vectors, strict=True))
    return found


def table_of(learner: Any, table: str) -> dict[int, bytes]:
    """Raw id to the bytes of its row as fp16, of everybody who has one."""
    local = local_tables(learner.model)[table]
    owner_N = learner.vocabularies[table]._owners().numpy()
    rows = np.flatnonzero(owner_N != ID_SPACE)
    vectors_ND = local.weights_ND.numpy().astype(np.float16)[rows]
    raw = gather(owner_N[rows]).tolist()
    return {i: vector.tobytes() for i, vector in zip(raw, vectors_ND, strict=True)}
