"""kill -9 of TPM when a period has just ended: the snapshots are those of an undisturbed one."""

from __future__ import annotations

import signal
from contextlib import closing

import pytest
from kafka import TopicPartition
from tpm_support import BUCKETS, KINDS, TPM_SETTINGS, sent_by
from trainer_support import Home, assert_same_state, fresh_topics, wait_until, write_impressions

from streaming import kafka_clients
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter

IMPRESSIONS = 4_100  # five periods and a bit
KILLED_AFTER = (3, 4)
"""Periods closed, over all lives, when a life is cut short."""


@pytest.fixture(scope="module")
def make_tpm(nursery, mortal_kafka, tmp_path_factory):
    log = fresh_topics()
    create_topics(mortal_kafka.config, log, levels=("tpm",))
    with RecordWriter(mortal_kafka.config) as writer:
        write_impressions(writer, log.natural, 0, IMPRESSIONS)

    def make(name: str) -> Home:
        folder = tmp_path_factory.mktemp(name)
        topics = fresh_topics(log)
        return Home(nursery, mortal_kafka.config, topics, folder, TPM_SETTINGS, "tpm")

    return make


@pytest.fixture(scope="module")
def undisturbed_tpm(make_tpm) -> Home:
    home = make_tpm("undisturbed-tpm")
    home.finish()
    return home


def periods_told(home: Home) -> list[str]:
    """The ends of the periods that its lives said they had closed."""
    told = sorted(home.run_dir.glob("*.told"))
    lines = [line for path in told for line in path.read_text().splitlines()]
    return [line.split(" closed")[0] for line in lines if line.startswith("period up to")]


def records_in(home: Home) -> int:
    """How many records its topic of snapshots has."""
    names = [TopicPartition(home.topics.snapshots, p) for p in range(home.topics.partitions)]
    with closing(kafka_clients.consumer(home.kafka)) as consumer:
        if home.topics.snapshots not in consumer.topics():
            return 0
        return sum(consumer.end_offsets(names).values())


def distinct(home: Home) -> int:
    return len(set(periods_told(home)))


@pytest.mark.timeout(240)
def test_kills_at_the_end_of_a_period_leave_no_trace(make_tpm, undisturbed_tpm):
    home = make_tpm("killed-tpm")
    # Once when a period is in Kafka and no checkpoint says so, then as soon as one is closed.
    life = home.live("--set", "tpm.checkpoint.every_batches=100000")
    wait_until(lambda: records_in(home) >= len(KINDS) * BUCKETS, 60, "a period's records")
    life.signal(signal.SIGKILL)
    assert life.end() == -signal.SIGKILL, life.said()
    for periods in KILLED_AFTER:
        life = home.live()
        wait_until(lambda: distinct(home) >= periods, 60, f"{periods} periods", 0.0005)  # noqa: B023
        life.signal(signal.SIGKILL)
        assert life.end() == -signal.SIGKILL, life.said()
    home.finish()
    expected, never = sent_by(undisturbed_tpm.kafka, undisturbed_tpm.topics)
    found, repeated = sent_by(home.kafka, home.topics)  # what is repeated has the same bytes
    assert found == expected and never == 0
    assert len(found) == 5 * len(KINDS) * BUCKETS
    assert len(periods_told(home)) > 5 and repeated > 0, "a kill made a period close again"
    assert_same_state(home.newest(), undisturbed_tpm.newest())


@pytest.mark.timeout(240)
def test_two_ranks_put_their_buckets_together(make_tpm, undisturbed_tpm):
    home = make_tpm("two-ranks")
    lives = home.live_ranks(2)
    assert [life.end(120) for life in lives] == [0, 0], [life.said() for life in lives]
    alone, _ = sent_by(undisturbed_tpm.kafka, undisturbed_tpm.topics)
    found, repeated = sent_by(home.kafka, home.topics)
    assert found.keys() == alone.keys() and repeated == 0
    assert home.newest().progress.marks == undisturbed_tpm.newest().progress.marks
