"""Where imported impressions go: Parquet files, or a topic."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import TopicPartition

from errors import UserError
from streaming.codec import CONTENT_TYPE, CONTENT_TYPE_ARROW, encode
from streaming.connection import KafkaConfig
from streaming.impressions import EVENT_TIME, ImpressionSchema
from streaming.kafka_clients import consumer
from streaming.partitioning import hourly_records, partition_of
from streaming.writer import RecordWriter


class Sink(Protocol):
    """Takes impressions in order of event time."""

    def write(self, rows: pa.RecordBatch) -> None: ...

    def finish(self) -> None:
        """Return when everything is safely there."""


class ParquetSink:
    """``<folder>/00000000.parquet``, a file a batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, rows: pa.RecordBatch) -> None:
        path = self._folder / f"{self._files:08d}.parquet"
        pq.write_table(pa.Table.from_batches([rows]), path, compression="lz4")
        self._files += 1

    def finish(self) -> None:
        pass


class TopicSink:
    """Arrow records of one partition each, keyed by user, with event times as timestamps.

    Raises:
        UserError: the topic holds records already and ``append`` does not allow that:
            impressions that were imported before would be learnt from twice.
    """

    def __init__(
        self, kafka: KafkaConfig, topic: str, schema: ImpressionSchema, *, append: bool
    ) -> None:
        self._kafka, self._topic, self._user = kafka, topic, schema.user
        with contextlib.closing(consumer(kafka)) as client:
            places = [TopicPartition(topic, p) for p in client.partitions_for_topic(topic) or ()]
            ends, firsts = client.end_offsets(places), client.beginning_offsets(places)
        self._partitions = len(places)
        if not append and any(ends[place] > firsts[place] for place in places):
            raise UserError(
                f"topic '{topic}' holds records already: empty it, name another "
                "(--set topics.ad=...), or --append"
            )
        self._writer = RecordWriter(kafka)

    def write(self, rows: pa.RecordBatch) -> None:
        of_row = partition_of(rows.column(self._user).to_numpy(), self._partitions)
        for partition in range(self._partitions):
            chosen = rows.take(pa.array(np.flatnonzero(of_row == partition)))
            for start, end in hourly_records(chosen.column(EVENT_TIME).to_numpy()):
                self._send(chosen.slice(start, end - start), partition)

    def _send(self, rows: pa.RecordBatch, partition: int) -> None:
        self._writer.send(
            self._topic,
            encode(rows),
            key=str(partition).encode(),
            headers=[(CONTENT_TYPE, CONTENT_TYPE_ARROW.encode())],
            partition=partition,
        )

    def finish(self) -> None:
        self._writer.flush()
        self._writer.close()
