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


def pytest_itemcollected(item: pytest.Item) -> None:
    """Several processes share the tests by file; those that kill share one Kafka and its log."""
    kills = "faults" in item.path.parts or "mortal_kafka" in item.fixturenames
    item.add_marker(pytest.mark.xdist_group("faults" if kills else item.path.stem))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Groups that are lost cost minutes, as each process makes every file's fixtures."""
    if getattr(session.config.option, "loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "xdist does not see the groups"


@pytest.fixture(scope="session")
def embedded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """The session's broker. Do not kill it: `mortal_kafka` is there for that."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def mortal_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that may be killed by those who bring it back."""
    with EmbeddedKafka(tmp_path_factory.mktemp("mortal-kafka")) as broker:
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
