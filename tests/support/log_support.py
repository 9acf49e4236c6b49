"""Small impression logs with a schema of their own, for tests that read and write them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing

import numpy as np
import pyarrow as pa
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)

from streaming import kafka_clients
from streaming.codec import encode
from streaming.connection import KafkaConfig
from streaming.impressions import Batch, Feature, ImpressionSchema
from streaming.reader import LogReader
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter

SCHEMA = ImpressionSchema(
    features=(
        Feature(name="user_id", kind="id"),
        Feature(name="item_id", kind="id"),
        Feature(name="recent", kind="id", multi=True, optional=True),
        Feature(name="age", kind="numeric", optional=True),
    )
)
START_MS = 1_700_000_000_000
_COORDINATOR_NOT_READY = (  # of a new broker
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)
FOREVER_HOURS = 1_000_000  # event times are years ago, and Kafka's retention goes by them


def own_topics(partitions: int = 4) -> TopicsConfig:
    """Names of an impression and a dead-letter topic that no other test uses."""
    own = uuid.uuid4().hex[:8]
    return TopicsConfig(
        ad=f"ad.{own}",
        dead_letter=f"dead-letter.{own}",
        partitions=partitions,
        retention_hours=FOREVER_HOURS,
    )


def impressions(ids: Iterable[int], spacing_ms: int = 10) -> pa.RecordBatch:
    """Good impressions with these ids, ``spacing_ms`` apart by id."""
    id_N = np.fromiter(ids, dtype=np.int64)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(id_N),
            pa.array(START_MS + spacing_ms * id_N),
            pa.array((id_N % 3 == 0).astype(np.int8)),
            pa.array(id_N % 17),
            pa.array(id_N % 31),
            pa.array([[i % 5, i % 7] for i in id_N.tolist()], pa.list_(pa.int64())),
            pa.array((id_N % 50).astype(np.float32)),
        ],
        schema=SCHEMA.arrow,
    )


def write_log(
    writer: RecordWriter,
    topic: str,
    first_id: int,
    records: int,
    rows: int,
    partitions: int = 4,
    *,
    as_of_now: bool = False,
) -> int:
    """``records`` records of ``rows`` impressions, partitions taking turns; the next free id.

    Kafka's timestamps are the event times, or the wall clock with ``as_of_now``.
    """
    for i in range(records):
        start = first_id + i * rows
        value = encode(impressions(range(start, start + rows)))
        partition = (i * 7 + i // 5) % partitions
        timestamp_ms = None if as_of_now else START_MS + 10 * start
        writer.send(topic, value, partition=partition, timestamp_ms=timestamp_ms)
    writer.flush(30)
    return first_id + records * rows


def drain(
    reader: LogReader,
    seconds: float = 30,
    after: Callable[[Batch], None] = lambda batch: None,
    batches: int | None = None,
) -> list[Batch]:
    """Batches until the reader has finished, or the first ``batches``; with a deadline."""
    found: list[Batch] = []
    deadline = time.monotonic() + seconds
    while not reader.finished and (batches is None or len(found) < batches):
        assert time.monotonic() < deadline, f"only {len(found)} batches within {seconds} s"
        batch = reader.next_batch(0.2)
        if batch is not None:
            found.append(batch)
            after(batch)
    return found


def contents(batches: Iterable[Batch]) -> list[list[tuple[int, int, int, int]]]:
    """(impression id, partition, offset, row) of every row of every batch."""
    return [
        list(
            zip(
                batch.rows.column("impression_id").to_pylist(),
                batch.source.partition.tolist(),
                batch.source.offset.tolist(),
                batch.source.row.tolist(),
                strict=True,
            )
        )
        for batch in batches
    ]


def ids(batches: Iterable[Batch]) -> list[int]:
    return [i for batch in batches for i in batch.rows.column("impression_id").to_pylist()]


def commits_arrive(kafka: KafkaConfig, reader: LogReader, group: str, last: Batch) -> bool:
    """Commit ``last``; whether Kafka says of ``group`` by now that it got there."""
    reader.commit(last.positions)
    with closing(kafka_clients.admin(kafka)) as client:
        try:
            offsets = client.list_group_offsets([group])[group]
        except _COORDINATOR_NOT_READY:
            return False
    found = {tp.partition: meta.offset for tp, meta in offsets.items()}
    return found == {p: position.offset for p, position in last.positions.items()}
