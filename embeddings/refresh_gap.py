"""Snapshots that a stream passed over, read from the log itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kafka import TopicPartition

from streaming.connection import KafkaConfig
from streaming.kafka_clients import consumer

_POLL_MS = 500


def read_between(
    kafka: KafkaConfig, topic: str, partition: int, first: int, end: int
) -> Iterator[Any]:
    """Kafka's records at offsets ``first`` <= offset < ``end`` that exist, in order.

    Waits for a Kafka that is away, as long as that takes.

    Raises:
        UserError: no broker answers at the beginning.
    """
    place = TopicPartition(topic, partition)
    with contextlib.closing(consumer(kafka, auto_offset_reset="earliest")) as client:
        client.assign([place])
        client.seek(place, first)
        while client.position(place) < end:
            for record in client.poll(timeout_ms=_POLL_MS).get(place, ()):
                if record.offset < end:
                    yield record
