"""The refresher over a Kafka that dies, and where it has to refuse."""

from __future__ import annotations

import contextlib
import signal

import pytest
from refresh_support import history_config, period
from refresher_process import SECONDS, Refreshers
from tests_support import eventually
from trainer_support import fresh_topics

from streaming.kafka_clients import admin
from streaming.topic_admin import create_topics, delete_topics


@pytest.fixture
def refreshers(nursery, mortal_kafka, tmp_path):
    mortal_kafka.start()
    topics = fresh_topics().model_copy(update={"partitions": 4})
    create_topics(mortal_kafka.config, topics, levels=())
    config = history_config(refresh_seconds=0.5)
    made = Refreshers(nursery, mortal_kafka.config, topics, tmp_path, config)
    yield made
    made.close()
    mortal_kafka.start()


def test_kafka_is_killed_and_comes_back(refreshers, mortal_kafka):
    worker = refreshers.start()
    refreshers.write(period(1))
    refreshers.await_right()
    mortal_kafka.kill()
    mortal_kafka.restart()
    refreshers.write([*period(2), *period(3)])
    refreshers.await_right()
    refreshers.stop(worker)


def test_it_ends_though_kafka_is_away(refreshers, mortal_kafka):
    refreshers.write(period(1))
    worker = refreshers.start()
    refreshers.await_right()
    mortal_kafka.kill()
    refreshers.stop(worker)
    assert not list((refreshers.run_dir / "processes").glob("*.json"))


def test_sigterm_is_a_clean_end(refreshers):
    worker = refreshers.start()
    eventually(lambda: refreshers.has(4), SECONDS, "a worker with partitions")
    worker.signal(signal.SIGTERM)
    assert worker.end(SECONDS) == 0
    assert "Traceback" not in refreshers.said()


def test_the_same_worker_twice_is_refused(refreshers):
    refreshers.start()
    eventually(lambda: refreshers.has(4), SECONDS, "a worker with partitions")
    assert refreshers.start().end(SECONDS) == 2
    assert "'refresher' already runs" in refreshers.said()


def test_topics_of_different_width_are_refused(refreshers):
    topics = refreshers.topics
    delete_topics(refreshers.kafka, [topics.historical])
    with contextlib.closing(admin(refreshers.kafka)) as client:
        client.create_topics({topics.historical: {"num_partitions": 3, "replication_factor": 1}})
    assert refreshers.start().end(SECONDS) == 2
    assert "must have the same number of partitions" in refreshers.said()
    assert "Traceback" not in refreshers.said()


def test_a_bucket_too_large_for_a_message_ends_the_worker(refreshers):
    refreshers.config = history_config(buckets=1)
    refreshers.write(period(1, buckets=1, entities=40_000, of=range(100_000)))
    assert refreshers.start().end(SECONDS) == 2
    assert "raise history.buckets" in refreshers.said()
    assert "Traceback" not in refreshers.said()
