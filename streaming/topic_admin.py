"""Creating our topics with their cleanup policies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from errors import UserError
from streaming.connection import KafkaConfig
from streaming.kafka_clients import CONNECT_SECONDS, admin, one_line
from streaming.topics import TopicsConfig

LEVELS = ("tpm", "cpm", "actr")

Settings = dict[str, str]
"""Kafka's own, of one topic."""

_HOUR_MS = 3_600_000
_RETRY_SECONDS = 0.2


def topic_settings(topics: TopicsConfig, levels: Sequence[str] = LEVELS) -> dict[str, Settings]:
    """Every topic's name with its Kafka settings."""
    kept_for_a_time = {
        "cleanup.policy": "delete",
        "retention.ms": str(topics.retention_hours * _HOUR_MS),
    }
    # A refresher that starts over reads the last periods again, months after they were written.
    kept = {"cleanup.policy": "delete", "retention.ms": "-1"}
    compacted = {"cleanup.policy": "compact"}
    return {
        topics.natural: kept_for_a_time,
        topics.ad: kept_for_a_time,
        topics.dead_letter: kept_for_a_time,
        topics.snapshots: kept,
        topics.historical: compacted,
        topics.control: kept_for_a_time,
        **{topics.predictions_of(level): kept_for_a_time for level in levels},
        **{topics.models_of(level): compacted for level in levels},
    }


def create_topics(
    kafka: KafkaConfig, topics: TopicsConfig, levels: Sequence[str] = LEVELS
) -> list[str]:
    """Create what is missing of our topics and wait until it can be used.

    A topic that exists is left as it is, whatever its settings. A Kafka that goes away meanwhile
    is waited for as at a start (`kafka.start_wait_seconds`).

    Returns:
        the names of the topics that were created.

    Raises:
        UserError: no broker answers, or it refuses.
    """
    wanted = topic_settings(topics, levels)
    # Requests are read from one partition, whoever wrote them.
    one = {topics.control: wanted.pop(topics.control)}
    deadline = time.monotonic() + max(CONNECT_SECONDS, kafka.start_wait_seconds)
    made: list[str] = []
    while True:
        try:
            with contextlib.closing(admin(kafka)) as client:
                made += create_missing(client, one, 1, topics.replication)
                made += create_missing(client, wanted, topics.partitions, topics.replication)
                return made
        except KafkaError as error:
            if error.retriable and time.monotonic() < deadline:
                time.sleep(_RETRY_SECONDS)  # and making the next client waits for the broker
                continue
            raise UserError(
                f"Kafka at {kafka.bootstrap_servers} does not create the topics "
                f"{', '.join(sorted(wanted))}: {one_line(error)}"
            ) from error


def create_missing(
    client: KafkaAdminClient, wanted: Mapping[str, Settings], partitions: int, replication: int
) -> list[str]:
    """Create those of the ``wanted`` topics that are not there, and wait for them; their names.

    Raises:
        KafkaError: Kafka refuses, or is away.
    """
    missing = sorted(wanted.keys() - set(client.list_topics()))
    if missing:
        new = {
            name: {
                "num_partitions": partitions,
                "replication_factor": replication,
                "configs": wanted[name],
            }
            for name in missing
        }
        # Two processes may start at once: what the other created is fine.
        with contextlib.suppress(TopicAlreadyExistsError):
            client.create_topics(new)
        client.wait_for_topics(missing)
    return missing


def delete_topics(kafka: KafkaConfig, names: Sequence[str]) -> None:
    """Delete topics and their records; names of none are passed over."""
    with contextlib.closing(admin(kafka)) as client:
        client.delete_topics(sorted(set(names) & set(client.list_topics())))
