"""Topics on a real broker."""

from __future__ import annotations

import contextlib

from click.testing import CliRunner
from kafka.admin import ConfigResource, ConfigResourceType

from cli import cli
from streaming.connection import KafkaConfig
from streaming.kafka_clients import admin
from streaming.topic_admin import create_topics, delete_topics, topic_settings
from streaming.topics import TopicsConfig


def test_topics_have_their_policies_and_partitions(kafka: KafkaConfig, topics: TopicsConfig):
    with contextlib.closing(admin(kafka)) as client:
        named = [topics.ad, topics.historical, topics.control]
        described = {t["name"]: t for t in client.describe_topics(named)}
        configs = client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topics.historical)]
        )
    assert len(described[topics.ad]["partitions"]) == topics.partitions > 1
    assert len(described[topics.control]["partitions"]) == 1, "requests have one order"
    assert "compact" in str(configs)


def test_creating_again_changes_nothing(kafka: KafkaConfig, topics: TopicsConfig):
    assert create_topics(kafka, topics, levels=("actr",)) == []
    more = create_topics(kafka, topics)
    assert sorted(more) == sorted(
        topic_settings(topics).keys() - topic_settings(topics, ("actr",)).keys()
    )
    delete_topics(kafka, more)


def test_the_command_creates_what_is_missing_and_lists_all(
    kafka: KafkaConfig, topics: TopicsConfig
):
    settings = [f"--set=topics.{key}={value}" for key, value in topics.model_dump().items()]
    arguments = ["topics", "--bootstrap-servers", kafka.bootstrap_servers, *settings]
    first, again = (CliRunner().invoke(cli, arguments) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    names = topic_settings(topics)
    assert f"exists  {topics.ad} (cleanup.policy=delete" in first.output
    assert f"created {topics.models_of('tpm')} (cleanup.policy=compact)" in first.output
    assert "created" not in again.output and len(again.output.splitlines()) == len(names)
    delete_topics(kafka, [topics.predictions_of(level) for level in ("tpm", "cpm")])
    delete_topics(kafka, [topics.models_of(level) for level in ("tpm", "cpm")])
