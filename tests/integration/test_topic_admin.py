"""Topics on a real broker."""

from __future__ import annotations

import contextlib

from kafka.admin import ConfigResource, ConfigResourceType

from streaming.connection import KafkaConfig
from streaming.kafka_clients import admin
from streaming.topic_admin import create_topics, delete_topics, topic_settings
from streaming.topics import TopicsConfig


def test_topics_have_their_policies_and_partitions(kafka: KafkaConfig, topics: TopicsConfig):
    with contextlib.closing(admin(kafka)) as client:
        described = {t["name"]: t for t in client.describe_topics([topics.ad, topics.historical])}
        configs = client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topics.historical)]
        )
    assert len(described[topics.ad]["partitions"]) == topics.partitions
    assert "compact" in str(configs)


def test_creating_again_changes_nothing(kafka: KafkaConfig, topics: TopicsConfig):
    assert create_topics(kafka, topics, levels=("actr",)) == []
    more = create_topics(kafka, topics)
    assert sorted(more) == sorted(
        topic_settings(topics).keys() - topic_settings(topics, ("actr",)).keys()
    )
    delete_topics(kafka, more)
