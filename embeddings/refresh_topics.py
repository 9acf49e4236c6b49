"""The topics that the refresher works between, and those of its own."""

from __future__ import annotations

import contextlib

from kafka.errors import KafkaError

from embeddings.refresh_worker import changelog_topic, refresh_topic
from errors import UserError
from streaming.connection import KafkaConfig
from streaming.kafka_clients import admin, one_line
from streaming.topic_admin import create_missing, create_topics
from streaming.topics import TopicsConfig

_OWN_SETTINGS = {
    changelog_topic: {"cleanup.policy": "compact"},
    refresh_topic: {"cleanup.policy": "delete", "retention.ms": "3600000"},
}


def prepare_topics(kafka: KafkaConfig, topics: TopicsConfig, app_id: str) -> int:
    """Create what is missing; how many partitions each has.

    Raises:
        UserError: topics with different numbers of partitions, or Kafka refuses.
    """
    create_topics(kafka, topics, levels=())
    own = {name(app_id): settings for name, settings in _OWN_SETTINGS.items()}
    with contextlib.closing(admin(kafka)) as client:
        try:
            partitions = _partitions(client, [topics.snapshots])[topics.snapshots]
            create_missing(client, own, partitions, topics.replication)
            counts = _partitions(client, [topics.snapshots, topics.historical, *own])
        except KafkaError as error:
            raise UserError(
                f"Kafka at {kafka.bootstrap_servers} does not create or describe the topics "
                f"{', '.join(sorted(own))}: {one_line(error)}"
            ) from error
    _require_same(counts)
    return partitions


def _partitions(client: object, names: list[str]) -> dict[str, int]:
    described = client.describe_topics(names)  # type: ignore[attr-defined]
    return {topic["name"]: len(topic["partitions"]) for topic in described}


def _require_same(counts: dict[str, int]) -> None:
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UserError(
            f"the refresher's topics must have the same number of partitions: {found}; make those "
            "that differ anew (the snapshots' number is what counts)"
        )
