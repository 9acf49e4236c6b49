"""A bounded log on the broker that may be killed, and what an undisturbed trainer makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from log_support import START_MS
from nursery_support import Nursery
from trainer_support import (
    BAD_RECORDS,
    IMPRESSIONS,
    Home,
    Undisturbed,
    fresh_topics,
    predictions_of,
    wait_until,
    write_impressions,
)

from streaming.embedded_kafka import EmbeddedKafka
from streaming.topic_admin import create_topics
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter


@pytest.fixture(scope="session")
def log_topics(nursery: Nursery, mortal_kafka: EmbeddedKafka) -> TopicsConfig:
    """A bounded log of good impressions, with a bad record here and there."""
    topics = fresh_topics()
    create_topics(mortal_kafka.config, topics, levels=("actr",))
    rng = np.random.default_rng(7)
    with RecordWriter(mortal_kafka.config) as writer:
        at = 0
        for share in np.diff(np.linspace(0, IMPRESSIONS, BAD_RECORDS + 1).astype(int)).tolist():
            at = write_impressions(writer, topics.ad, at, share)
            writer.send(
                topics.ad,
                rng.bytes(60),
                partition=int(rng.integers(topics.partitions)),
                timestamp_ms=START_MS,
            )
        writer.flush(60)
    return topics


MakeHome = Callable[..., Home]


@pytest.fixture
def make_home(
    nursery: Nursery, mortal_kafka: EmbeddedKafka, log_topics: TopicsConfig, tmp_path: Path
) -> MakeHome:
    """A trainer's home over the bounded log."""

    def make(name: str = "run", **more: str) -> Home:
        topics = fresh_topics(log_topics)
        return Home(nursery, mortal_kafka.config, topics, tmp_path / name, **more)

    return make


@pytest.fixture
def own_topics(mortal_kafka: EmbeddedKafka) -> TopicsConfig:
    """Topics, created and empty, for a log of the test's own."""
    topics = fresh_topics()
    create_topics(mortal_kafka.config, topics, levels=("actr",))
    return topics


@pytest.fixture(scope="session")
def undisturbed(
    nursery: Nursery,
    mortal_kafka: EmbeddedKafka,
    log_topics: TopicsConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Undisturbed:
    home = Home(
        nursery,
        mortal_kafka.config,
        fresh_topics(log_topics),
        tmp_path_factory.mktemp("undisturbed"),
    )
    nursery.wait()
    forked = time.monotonic()
    life = home.live()
    wait_until(home.reached, 60, "a first checkpoint")
    first, at = time.monotonic(), home.reached()
    assert life.end(120) == 0, life.said()
    cycles = (home.reached() - at) / 3
    return Undisturbed(
        home,
        predictions_of(home.kafka, home.topics),
        start_seconds=first - forked,
        cycle_seconds=(time.monotonic() - first) / cycles,
    )
