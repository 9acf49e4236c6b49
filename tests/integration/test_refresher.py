"""The refresher on a real Kafka: whatever happens, readers find what the pure functions say."""

from __future__ import annotations

import itertools
import os
import random
import signal

import pytest
from refresh_support import DAY, expected, history_config, period
from refresher_process import SECONDS, Refreshers
from tests_support import eventually

from streaming.writer import RecordWriter

BUCKETS = 8  # 4 of each kind


@pytest.fixture
def refreshers(nursery, kafka, topics, tmp_path):
    made = Refreshers(nursery, kafka, topics, tmp_path, history_config(refresh_seconds=0.5))
    yield made
    made.close()


def test_snapshots_become_history(refreshers):
    refreshers.write(period(1))
    worker = refreshers.start()
    refreshers.await_right()
    refreshers.write([*period(2), *period(3)])
    refreshers.await_right()
    refreshers.stop(worker)
    newest = {r.key: dict(r.headers) for r in refreshers.records(refreshers.topics.historical)}
    assert len(newest) == BUCKETS
    for key, headers in newest.items():
        assert headers["period-end"] == str(3 * DAY).encode()
        assert headers["kind"] + b"/" + headers["bucket"] == key


def test_a_record_stands_in_the_partition_of_its_snapshots(refreshers):
    refreshers.write(period(1))
    refreshers.start()
    refreshers.await_right()
    topics = refreshers.topics
    places = [
        {r.key: r.partition for r in refreshers.records(topic)}
        for topic in (topics.snapshots, topics.historical)
    ]
    assert places[0] == places[1]


def test_metrics_and_dead_letters(refreshers):
    refreshers.start()
    refreshers.write([*period(1), *period(2), *period(1)])
    topics = refreshers.topics
    with RecordWriter(refreshers.kafka) as writer:
        writer.send(topics.snapshots, b"junk", key=b"user/1", headers=[("kind", b"user")])
        writer.send(topics.snapshots, None, key=b"user/2")
        writer.send(topics.snapshots, b"no key")
        writer.flush(30)
    # Many were seen on the first day only: its second coming repeats, but is not old.
    refreshers.write(
        [*period(9, entities=200), *period(10, entities=200), *period(11, entities=200)]
    )
    refreshers.write(period(1)[:3])
    refreshers.await_right()
    eventually(
        lambda: (
            sum(v for (n, _), v in refreshers.metrics().items() if "snapshots_total" in n)
            == len(refreshers.snapshots) + 3
        ),
        SECONDS,
        "all snapshots counted",
    )
    found = refreshers.metrics()
    outcomes = {k: v for (n, k), v in found.items() if n == "ecdctr_history_snapshots_total"}
    assert outcomes == {"merged": 40, "repeated": 8, "old": 3, "unusable": 3}
    assert found["ecdctr_history_entities", "user"] == 200
    assert found["ecdctr_history_coverage_ratio", "item"] == 1.0
    assert found["ecdctr_history_cosine_distance", "user"] == pytest.approx(1.0, abs=0.2)
    assert found["ecdctr_history_event_time_seconds", ""] == 11 * DAY / 1000
    assert found["ecdctr_history_staleness_seconds", ""] == 0
    assert found["ecdctr_history_table_bytes", ""] > 400 * 3 * 4 * 2
    letters = refreshers.records(topics.dead_letter)
    told = sorted((dict(x.headers)["reason"], x.value) for x in letters)
    assert told == [
        (b"empty-record", b""),
        (b"undecodable-arrow", b"junk"),
        (b"undecodable-arrow", b"no key"),
    ]


def test_twice_out_of_order_and_for_a_period_long_gone(refreshers):
    days = [4, 2, 3, 2, 30, 1, 31, 4, 5]
    snapshots = [s for day in days for s in period(day)]
    random.Random(5).shuffle(snapshots)
    refreshers.start()
    refreshers.write(snapshots[:40])
    refreshers.await_right()
    refreshers.write(snapshots[40:])
    refreshers.await_right()


def test_a_bucket_that_snapshots_forgot_is_taken_back(refreshers):
    refreshers.start()
    refreshers.write(period(1))
    refreshers.await_right()
    refreshers.write([s for s in period(40) if (s.kind, s.bucket) != ("item", 2)])
    refreshers.await_right()
    assert refreshers.found()[b"item/2"] is None


def large(day):
    """Buckets that take a moment each."""
    return period(day, entities=6000, of=range(20_000))


def test_killed_in_the_middle_of_a_refresh(refreshers):
    worker = refreshers.start()
    eventually(lambda: refreshers.has(4), SECONDS, "a worker with partitions")
    refreshers.write([s for day in range(1, 13) for s in large(day)])
    told = refreshers.topics.historical
    eventually(lambda: refreshers.length(told) >= 10, SECONDS, "ten buckets published")
    refreshers.kill(worker)
    assert refreshers.length(told) < len(refreshers.snapshots)  # indeed in the middle
    for more in (20, 60):  # and while what was missed is caught up with
        kept = refreshers.length(refreshers.changelog)
        worker = refreshers.start()
        eventually(
            lambda n=kept + more: refreshers.length(refreshers.changelog) >= n, SECONDS, "rows kept"
        )
        refreshers.kill(worker)
    refreshers.start()
    refreshers.await_right()


def interrupted(refreshers, meanwhile):
    """A worker that has done its work goes, something happens, and another one comes."""
    refreshers.write([*period(1), *period(2), *period(3)])
    worker = refreshers.start()
    refreshers.await_right()
    refreshers.stop(worker)
    assert refreshers.committed() == len(refreshers.snapshots)  # no help from this side
    meanwhile()
    refreshers.write(period(4))
    refreshers.start()
    refreshers.await_right()


def test_an_empty_changelog(refreshers):
    interrupted(refreshers, lambda: refreshers.lose(refreshers.changelog))
    assert refreshers.said().count("its table is empty; making it anew from the snapshots") >= 4


def test_a_deleted_changelog(refreshers):
    interrupted(refreshers, refreshers.delete_changelog)
    assert "its table is empty; making it anew from the snapshots at offsets 0" in refreshers.said()


def test_a_changelog_of_which_the_beginning_expired(refreshers):
    """The newest rows are left, among them the position."""

    def expire() -> None:
        places = {r.partition: r.offset for r in refreshers.records(refreshers.changelog)}
        refreshers.lose(refreshers.changelog, before=places)

    interrupted(refreshers, expire)
    assert "has lost what was kept of" in refreshers.said()


def test_a_compacted_changelog(refreshers):
    """Little more than the newest row of each key is left, and offsets have holes."""
    refreshers.make_compacting_changelog()
    changelog = refreshers.changelog
    worker = refreshers.start()
    for day in range(1, 5):  # each of them rolls a segment: the last one is never compacted
        refreshers.write(period(day))
        refreshers.await_right()
    refreshers.kill(worker)
    written = refreshers.length(changelog)
    eventually(
        lambda: len(refreshers.records(changelog)) <= written - 2 * BUCKETS, SECONDS, "compaction"
    )
    before = refreshers.said().count("making it anew")
    refreshers.write(period(5))
    refreshers.start()
    refreshers.await_right()
    assert refreshers.said().count("making it anew") == before


def test_the_published_topic_emptied_and_the_changelog_too(refreshers):
    def empty() -> None:
        refreshers.lose(refreshers.changelog)
        refreshers.lose(refreshers.topics.historical)

    interrupted(refreshers, empty)


LOST = """
import embeddings.refresh_faust as ours

async def begin_at_commits(self):
    own = [tp for tp in self.assignment() if tp.topic == self.app.followed]
    await self.app.positions([tp.partition for tp in own])
    return await ours.Consumer.seek_to_committed(self)

ours.PositionedConsumer.seek_to_committed = begin_at_commits
"""


@pytest.mark.parametrize("another_period", [True, False])
def test_what_the_stream_passes_over_is_read_from_the_log(refreshers, another_period):
    """A worker that begins at the commits, as Faust does, and has lost its table."""
    refreshers.write([*period(1), *period(2)])
    worker = refreshers.start()
    refreshers.await_right()
    refreshers.stop(worker)
    refreshers.lose(refreshers.changelog)
    refreshers.lose(refreshers.topics.historical)
    refreshers.start(before=LOST)
    if another_period:
        refreshers.write(period(3))
    refreshers.await_right()
    assert "were not delivered" in refreshers.said()


def test_a_second_worker_comes_and_goes_while_buckets_move(refreshers):
    days = itertools.count(1)

    def write(periods):
        for _ in range(periods):
            refreshers.write(period(next(days), entities=150))

    first = refreshers.start(1)
    eventually(lambda: refreshers.has(4, 1), SECONDS, "the first worker has all")
    write(5)
    second = refreshers.start(2)
    while not refreshers.has(2, 2):
        write(1)
        assert second.status is None, refreshers.said(2)
    write(3)
    refreshers.stop(second)
    write(3)
    refreshers.await_right()
    third = refreshers.start(3)
    while not refreshers.has(2, 3):
        write(1)
        assert third.status is None, refreshers.said(3)
    refreshers.kill(first)
    write(3)
    refreshers.await_right()
    eventually(lambda: refreshers.has(4, 3), SECONDS, "the third worker has all")
    assert third.status is None


def test_one_that_hung_and_wakes_up_does_not_have_the_last_word(refreshers):
    first = refreshers.start(1)
    eventually(lambda: refreshers.has(4, 1), SECONDS, "the first worker has all")
    refreshers.write([*large(1), *large(2)])
    eventually(lambda: refreshers.length(refreshers.topics.historical) > 2, SECONDS, "some sent")
    os.kill(first.pid, signal.SIGSTOP)
    refreshers.start(2)
    eventually(lambda: refreshers.has(4, 2), SECONDS, "the second worker has all")
    refreshers.write([*large(3), *large(4)])
    refreshers.await_right()
    os.kill(first.pid, signal.SIGCONT)
    refreshers.write(large(5))
    refreshers.await_right()


def test_somebody_elses_record_is_overruled(refreshers):
    refreshers.write(period(1))
    refreshers.start()
    refreshers.await_right()
    with RecordWriter(refreshers.kafka) as writer:
        for partition in range(4):
            for key in refreshers.found():
                writer.send(refreshers.topics.historical, b"stale", key=key, partition=partition)
        writer.flush(30)
    wanted = expected(refreshers.snapshots, refreshers.config)
    own = {r.key: r.partition for r in refreshers.records(refreshers.topics.snapshots)}

    def overruled() -> bool:
        records = refreshers.records(refreshers.topics.historical)
        return {r.key: r.value for r in records if own[r.key] == r.partition} == wanted

    eventually(overruled, SECONDS, "the owner's last word")
    assert "somebody else wrote to it" in refreshers.said()
