"""Reading and writing the log on a real broker that is killed, cut short and outrun."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from kafka import TopicPartition
from log_support import (
    SCHEMA,
    START_MS,
    commits_arrive,
    contents,
    drain,
    ids,
    impressions,
    own_topics,
    write_log,
)
from tests_support import eventually

from errors import UserError
from streaming import kafka_clients, log_consumer
from streaming import writer as writer_module
from streaming.codec import encode
from streaming.connection import KafkaConfig
from streaming.embedded_kafka import EmbeddedKafka
from streaming.impressions import Position
from streaming.log_gap import LogGapError, LogTruncatedError
from streaming.reader import LogReader, ReaderConfig
from streaming.topic_admin import create_topics, delete_topics
from streaming.topics import TopicsConfig
from streaming.writer import KafkaWriteError, RecordWriter

PROMPT = ReaderConfig(idle_partition_seconds=0.4)


@pytest.fixture(scope="module")
def writer(kafka: KafkaConfig) -> Iterator[RecordWriter]:
    with RecordWriter(kafka) as writer:
        yield writer


@pytest.fixture
def mortal_topics(mortal_kafka: EmbeddedKafka) -> TopicsConfig:
    own = own_topics()
    create_topics(mortal_kafka.config, own, levels=())
    return own


def nothing_bad(letter: object) -> None:
    raise AssertionError(letter)


def read(kafka: KafkaConfig, topic: str, **more) -> LogReader:
    settings = {"batch_size": 100, "dead_letters": nothing_bad, "until_end": True}
    return LogReader(kafka, topic, SCHEMA, **settings | more)


def delete_before(kafka: KafkaConfig, topic: str, offsets: dict[int, int]) -> None:
    """Move the log's start, as retention does."""
    with contextlib.closing(kafka_clients.admin(kafka)) as client:
        client.delete_records({TopicPartition(topic, p): o for p, o in offsets.items()})


def test_a_log_is_read_in_order_and_whole(kafka, topics, writer):
    total = write_log(writer, topics.ad, 0, records=60, rows=7)
    with read(kafka, topics.ad) as reader:
        batches = drain(reader)
        assert reader.lag().records == 0
    assert ids(batches) == list(range(total))
    assert [len(batch) for batch in batches] == [100] * 4 + [20]
    assert batches[-1].watermark == START_MS + 10 * (total - 1)
    assert reader.counts.impressions == total and reader.counts.records == 60


def test_ranks_share_the_partitions(kafka, topics, writer):
    total = write_log(writer, topics.ad, 0, records=40, rows=5)
    found, partitions = [], []
    for rank in range(3):
        with read(kafka, topics.ad, rank=rank, world_size=3) as reader:
            batches = drain(reader)
        found += ids(batches)
        partitions.append(sorted(batches[-1].positions))
    assert sorted(found) == list(range(total))
    assert partitions == [[0, 3], [1], [2]]


def test_a_restart_from_any_position_gives_the_same_remaining_batches(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=50, rows=9)
    with read(kafka, topics.ad) as reader:
        batches = drain(reader)
    for i, batch in enumerate(batches):
        with read(kafka, topics.ad, start=batch.positions) as reader:
            assert contents(drain(reader)) == contents(batches[i + 1 :])


def test_little_prefetch_gives_the_same_batches(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=40, rows=9)
    with read(kafka, topics.ad) as reader:
        batches = drain(reader)
    config = ReaderConfig(prefetch_rows=1, max_poll_records=1)
    with read(kafka, topics.ad, config=config) as reader:
        eventually(lambda: reader.counts.impressions >= 200, 10, "prefetch")
        assert reader.counts.impressions < 500  # and there it waits for us
        assert contents(drain(reader)) == contents(batches)


def test_the_lag_in_event_time_is_that_of_the_log_and_not_of_what_was_read_ahead(
    kafka, topics, writer
):
    total = write_log(writer, topics.ad, 0, records=200, rows=10, as_of_now=True)
    little = ReaderConfig(prefetch_rows=40, max_poll_records=1)
    with read(kafka, topics.ad, config=little, batch_size=10) as reader:
        assert (first := reader.next_batch(timeout=10)) is not None
        behind = (START_MS + 10 * (total - 1) - first.watermark) / 1_000
        eventually(lambda: reader.lag().event_time_seconds == pytest.approx(behind), 10, "lag")
        assert reader.counts.impressions < total / 4


def test_kafka_killed_under_readers_and_writers(mortal_kafka, mortal_topics):
    """Nothing is lost or repeated, and the batches are those of an uninterrupted reading."""
    topic = mortal_topics.ad
    patient = ReaderConfig(prefetch_rows=2_000, idle_partition_seconds=600)
    with (
        RecordWriter(mortal_kafka.config) as writer,
        read(mortal_kafka.config, topic, until_end=False, config=patient) as reader,
    ):
        # Event times long past as timestamps would void the broker's memory of the writer.
        sender = threading.Thread(
            target=write_log, args=(writer, topic, 0, 10_000, 2), kwargs={"as_of_now": True}
        )
        sender.start()
        found = drain(reader, batches=3)
        assert sender.is_alive() or writer.pending_bytes
        mortal_kafka.kill()
        while (batch := reader.next_batch(0.3)) is not None:  # what was read ahead
            found.append(batch)
        mortal_kafka.restart()
        found += drain(reader, batches=170 - len(found))
        sender.join(30)
        assert not sender.is_alive()
    with read(mortal_kafka.config, topic) as reader:
        whole = drain(reader)
    assert contents(found) == contents(whole)[:170]
    assert sorted(ids(whole)) == list(range(20_000))


def test_while_kafka_is_away(mortal_kafka, mortal_topics):
    """Readers wait and close promptly; writers wait, in bounded memory, and can be stopped."""
    topic = mortal_topics.ad
    waiting = RecordWriter(mortal_kafka.config, max_pending_bytes=20_000)
    stopped = RecordWriter(mortal_kafka.config)
    first = write_log(waiting, topic, 0, records=20, rows=5, as_of_now=True)
    stopped.send(topic, encode(impressions([999])), partition=3)
    stopped.flush(10)
    reader = read(mortal_kafka.config, topic, until_end=False, config=PROMPT)
    drain(reader, batches=1)
    mortal_kafka.kill()
    try:
        sender = threading.Thread(
            target=write_log, args=(waiting, topic, first, 100, 5), kwargs={"as_of_now": True}
        )
        sender.start()
        eventually(lambda: waiting.pending_bytes > 19_000, 10, "a full buffer")
        with pytest.raises(KafkaWriteError, match="not acknowledged by Kafka after 0.2 s"):
            waiting.flush(0.2)

        stopped.send(topic, b"never written", partition=0)
        threading.Timer(0.2, stopped.interrupt).start()
        with pytest.raises(KafkaWriteError, match="stopped while 1 records"):
            stopped.flush()
        stopped.close(timeout=0.1)

        assert reader.next_batch(1) is None
        begin = time.monotonic()
        reader.close()
        assert time.monotonic() - begin < 2  # the promise
        eventually(lambda: not reader._thread.is_alive(), 10, "the thread's end")
    finally:
        mortal_kafka.restart()
    sender.join(30)
    waiting.close(timeout=10)
    with read(mortal_kafka.config, topic) as reader:
        assert sorted(ids(drain(reader))) == [*range(600), 999]


def test_retention_that_overtook_a_checkpoint_is_named(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=40, rows=10, partitions=1)
    delete_before(kafka, topics.ad, {0: 25})
    positions = {0: Position(10, 3)}
    reader = read(kafka, topics.ad, start=positions, watermark=START_MS + 1_030)
    with reader, pytest.raises(LogGapError) as found:
        drain(reader)
    (gap,) = found.value.gaps
    assert (gap.topic, gap.partition, gap.first, gap.until) == (topics.ad, 0, 10, 25)
    assert (gap.after_ms, gap.before_ms) == (START_MS + 1_030, START_MS + 2_500)
    assert "offsets 10 to 24 (15 records, written after 2023-11-14T22:13:21Z" in str(found.value)
    assert "reader.on_gap=skip" in str(found.value)


def test_a_gap_is_skipped_and_counted_if_told_so(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=40, rows=10, partitions=1)
    delete_before(kafka, topics.ad, {0: 25})
    config = ReaderConfig(on_gap="skip")
    with read(kafka, topics.ad, start={0: Position(10, 3)}, config=config) as reader:
        assert ids(drain(reader)) == list(range(250, 400))
        assert reader.counts.lost_records == 15


@pytest.mark.parametrize("on_gap", ["stop", "skip"])
def test_retention_that_overtakes_a_reader_under_way(kafka, topics, writer, on_gap):
    first = write_log(writer, topics.ad, 0, records=100, rows=10, partitions=1)
    config = ReaderConfig(prefetch_rows=1, max_poll_records=1, on_gap=on_gap)
    partition = {"rank": 0, "world_size": 4}
    with read(kafka, topics.ad, until_end=False, config=config, **partition) as reader:
        found = drain(reader, batches=2)
        # It has read enough ahead and asks for no more, while the log grows and shrinks.
        eventually(lambda: reader.counts.impressions >= 400, 10, "prefetch")
        write_log(writer, topics.ad, first, records=100, rows=10, partitions=1)
        delete_before(kafka, topics.ad, {0: 150})
        if on_gap == "stop":
            with pytest.raises(LogGapError, match="partition 0: offsets 100 to 149"):
                drain(reader, batches=13)
        else:
            found += drain(reader, batches=13)
            assert ids(found) == [*range(1_000), *range(1_500, 2_000)]
            assert reader.counts.lost_records == 50


def test_a_position_beyond_the_end_is_an_error(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=3, rows=1, partitions=1)
    reader = read(kafka, topics.ad, start={0: Position(4)})
    with reader, pytest.raises(LogTruncatedError, match="position 4 lies beyond the log's end at"):
        drain(reader)


def test_a_topic_made_anew_under_a_reader_is_an_error(kafka, writer):
    topics = own_topics(partitions=1)
    create_topics(kafka, topics, levels=())
    write_log(writer, topics.ad, 0, records=9, rows=10, partitions=1)
    with read(kafka, topics.ad, until_end=False, batch_size=30) as reader:
        assert len(drain(reader, batches=3)) == 3
        delete_topics(kafka, [topics.ad])
        eventually(lambda: create_topics(kafka, topics, levels=()), 10, "the topic again")
        with pytest.raises(LogTruncatedError, match="position 9 lies beyond"):
            drain(reader, batches=1)


def test_a_silent_partition_is_left_out_until_it_speaks(kafka, topics, writer):
    def send(partition: int, first: int) -> None:
        writer.send(topics.ad, encode(impressions(range(first, first + 10))), partition=partition)
        writer.flush(10)

    for partition in range(3):
        send(partition, 10 * partition)
    with read(kafka, topics.ad, until_end=False, batch_size=10, config=PROMPT) as reader:
        assert ids(drain(reader, batches=3)) == list(range(30))  # the fourth is empty
        send(0, 100)
        assert ids(drain(reader, batches=1)) == list(range(100, 110))
        send(3, 50)  # speaks, too late
        assert ids(drain(reader, batches=1)) == list(range(50, 60))
        assert reader.counts.late == 10
        writer.send(topics.ad, encode(impressions(range(200, 205))), partition=1)
        writer.flush(10)
        eventually(lambda: reader.counts.impressions == 55, 10, "five more")
        assert reader.next_batch(1) is None  # a batch is cut by count, never by time
        assert reader.lag().records == 1
        assert reader.lag().event_time_seconds == pytest.approx((2_000 - 1_090) / 1_000)


def test_silent_partitions_are_left_out_while_another_flows(kafka, topics, writer):
    over, sent = threading.Event(), 0

    def flow() -> None:
        nonlocal sent
        while not over.wait(0.02):
            writer.send(topics.ad, encode(impressions([sent])), partition=1)
            sent += 1

    thread = threading.Thread(target=flow)
    with read(kafka, topics.ad, until_end=False, batch_size=5, config=PROMPT) as reader:
        thread.start()
        try:
            found = drain(reader, batches=3)
        finally:
            over.set()
            thread.join()
    assert ids(found) == list(range(15))
    assert sent < 1_500, "it was not waited for the flow to end"


def test_commits_follow_for_dashboards_and_are_not_read_back(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=40, rows=5)
    group = f"ecdctr-{topics.ad}"
    with read(kafka, topics.ad, group_id=group) as reader:
        batches = drain(reader)

        eventually(lambda: commits_arrive(kafka, reader, group, batches[-1]), 15, "the commit")
    with read(kafka, topics.ad, group_id=group) as reader:
        assert len(ids(drain(reader))) == 200


@pytest.mark.parametrize(
    "begin, expected", [("earliest", range(40)), ("latest", ()), (START_MS + 200, range(20, 40))]
)
def test_where_to_begin_without_a_checkpoint(kafka, topics, writer, begin, expected):
    write_log(writer, topics.ad, 0, records=40, rows=1)
    with read(kafka, topics.ad, config=ReaderConfig(begin=begin)) as reader:
        assert ids(drain(reader)) == list(expected)


def test_a_missing_topic_and_too_many_ranks_are_named(kafka, topics, monkeypatch):
    monkeypatch.setattr(log_consumer, "TOPIC_SECONDS", 0.1)
    with (
        read(kafka, "no.such.topic") as reader,
        pytest.raises(UserError, match="no topic 'no.such"),
    ):
        drain(reader)
    reader = read(kafka, topics.ad, rank=4, world_size=5)
    with reader, pytest.raises(UserError, match="4 partitions, too few for 5 ranks"):
        drain(reader)


def test_repeated_impressions_are_counted_and_learnt(kafka, topics, writer):
    for _ in range(2):
        writer.send(topics.ad, encode(impressions(range(150))), partition=0)
    writer.flush(10)
    with read(kafka, topics.ad) as reader:
        assert len(ids(drain(reader))) == 300
        assert reader.counts.duplicates == 150


def test_a_batch_says_when_its_oldest_record_was_appended(kafka, topics, writer):
    for i, timestamp in enumerate([START_MS + 5, START_MS + 1, START_MS + 9]):
        value = encode(impressions([i]))
        writer.send(topics.ad, value, partition=0, timestamp_ms=timestamp)
    writer.flush(10)
    with read(kafka, topics.ad) as reader:
        assert drain(reader)[0].appended_at == START_MS + 1


def test_what_a_writer_refuses_is_named(kafka, topics, monkeypatch):
    monkeypatch.setattr(writer_module, "_MISSING_TOPIC_SECONDS", 0.1)
    with RecordWriter(kafka) as writer:
        with pytest.raises(KafkaWriteError, match="cannot write to topic .* larger than"):
            writer.send(topics.ad, b"x" * 2_000_000)
        with pytest.raises(KafkaWriteError, match="topic 'no.such.topic' does not exist"):
            writer.send("no.such.topic", b"x")
        writer.send(topics.ad, b"x")
        writer.flush(10)
        assert writer.pending_bytes == 0
