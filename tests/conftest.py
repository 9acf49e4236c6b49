"""Fixtures for every test that talks to a real Kafka, or to trainers' processes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from log_support import FOREVER_HOURS
from nursery_support import Nursery

from streaming.connection import KafkaConfig
from streaming.embedded_kafka import EmbeddedKafka
from streaming.topic_admin import create_topics
from streaming.topics import TopicsConfig


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes share the tests by file; those that kill share one Kafka and its log."""
    for item in items:
        group = "faults" if "faults" in item.path.parts else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def embedded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """The session's broker. Do not kill it: a test that kills makes a broker of its own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(embedded_kafka: EmbeddedKafka) -> KafkaConfig:
    """How to reach the session's broker."""
    return embedded_kafka.config


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where trainers' processes come from."""
    nursery = Nursery()
    yield nursery
    nursery.close()


def unique_topics(partitions: int = 4) -> TopicsConfig:
    """Topic names that no other test uses."""
    own = uuid.uuid4().hex[:8]
    names = {
        field: f"{default}.{own}"
        for field, default in TopicsConfig().model_dump().items()
        if isinstance(default, str)
    }
    return TopicsConfig(**names, partitions=partitions, retention_hours=FOREVER_HOURS)


@pytest.fixture
def topics(kafka: KafkaConfig) -> TopicsConfig:
    """Topics of the test's own, created and empty; only A-CTR's of the levels' topics."""
    own = unique_topics()
    create_topics(kafka, own, levels=("actr",))
    return own
