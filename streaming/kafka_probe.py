"""Is a broker ready? It is when a record goes in and comes out."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError

PROBE_TOPIC = "__ecdctr_probe"

_PARTITION = TopicPartition(PROBE_TOPIC, 0)
_CONFIGS = {"retention.ms": "60000", "segment.bytes": str(1 << 20)}


def round_trip(bootstrap_servers: str) -> bool:
    """Send a record through the probe topic and read it back; False when that fails.

    Gives up after a few seconds: call it again until a deadline of your own.
    """
    settings: dict[str, Any] = {
        "bootstrap_servers": [bootstrap_servers],
        "reconnect_backoff_max_ms": 100,
        "bootstrap_timeout_ms": 2_000,
    }
    try:
        return _send_and_receive(settings, uuid.uuid4().bytes)
    except (KafkaError, OSError):
        return False


def _send_and_receive(settings: dict[str, Any], token: bytes) -> bool:
    with contextlib.closing(KafkaAdminClient(**settings)) as admin:
        if PROBE_TOPIC not in admin.list_topics():
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics({PROBE_TOPIC: {"num_partitions": 1, "configs": _CONFIGS}})
        admin.wait_for_topics([PROBE_TOPIC])
    with contextlib.closing(KafkaProducer(**settings, max_block_ms=3_000)) as producer:
        sent = producer.send(PROBE_TOPIC, token, partition=0).get(5)
    with contextlib.closing(KafkaConsumer(**settings, enable_auto_commit=False)) as consumer:
        consumer.assign([_PARTITION])
        consumer.seek(_PARTITION, sent.offset)
        records = consumer.poll(timeout_ms=3_000).get(_PARTITION, [])
    return any(record.value == token for record in records)
