"""10,000 damaged records among 100,000 good impressions: none lost, none mixed up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import orjson
import pyarrow as pa
from kafka import TopicPartition
from log_support import SCHEMA, START_MS, drain, ids, impressions

from streaming import kafka_clients
from streaming.codec import encode
from streaming.dead_letters import Assembly, DeadLetter
from streaming.reader import LogReader
from streaming.writer import RecordWriter

GOOD, DAMAGED = 100_000, 10_000


def changed(i: int, **values) -> bytes:
    rows = impressions([i])
    for name, value in values.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at).with_nullable(True), value)
    return encode(rows)


def damaged(i: int, rng: np.random.Generator) -> bytes:
    """One damaged impression, in one of ten ways."""
    good = encode(impressions([i]))
    json = {"impression_id": i, "event_time": START_MS, "click": 0, "user_id": 1, "item_id": 2}
    kinds = (
        lambda: good[: int(rng.integers(8, len(good) - 8))],
        lambda: b"",
        lambda: rng.bytes(50),
        lambda: changed(i, click=pa.array([7], pa.int8())),
        lambda: changed(i, event_time=pa.array([1], pa.int64())),
        lambda: changed(i, user_id=pa.array([-5], pa.int64())),
        lambda: encode(impressions([i]).drop_columns(["item_id"])),
        lambda: orjson.dumps(json)[:-3],
        lambda: orjson.dumps(json | {"click": "maybe"}),
        lambda: orjson.dumps(json | {"event_time": 10**15}),
    )
    return kinds[i % len(kinds)]()


def write(writer: RecordWriter, topic: str) -> None:
    """Good impressions alone, in company, and with one damaged row amidst them."""
    rng = np.random.default_rng(1)
    clicks = pa.array([0] * 44 + [7], pa.int8())  # the last row of 45 is bad
    next_good = 0
    for i in range(DAMAGED):
        writer.send(topic, damaged(i, rng), partition=i % 4, timestamp_ms=START_MS)
        if i % 5 == 0:
            rows = impressions([*range(next_good, next_good + 44), 10**9])
            value = encode(rows.set_column(2, "click", clicks))
            writer.send(topic, value, partition=i % 3, timestamp_ms=START_MS)
            next_good += 44
        elif i % 5 < 4:
            value = encode(impressions([next_good]))
            writer.send(topic, value, partition=i % 3, timestamp_ms=START_MS)
            next_good += 1
    value = encode(impressions(range(next_good, GOOD)))
    writer.send(topic, value, partition=3, timestamp_ms=START_MS)
    writer.flush(60)


def letters(kafka, topic: str) -> list[DeadLetter]:
    assembly, found = Assembly(), []
    consumer = kafka_clients.consumer(kafka, auto_offset_reset="earliest")
    names = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(names)
    ends = consumer.end_offsets(names)
    while any(consumer.position(name) < ends[name] for name in names):
        for records in consumer.poll(200).values():
            found += [assembly.add(r.value, r.headers, r.key) for r in records]
    consumer.close()
    return [letter for letter in found if letter is not None]


def test_every_good_row_is_delivered_and_every_bad_one_is_a_dead_letter(kafka, topics):
    def bury(letter: DeadLetter) -> None:
        for value, headers in letter.records():
            writer.send(topics.dead_letter, value, key=letter.key, headers=headers)

    with RecordWriter(kafka) as writer:
        write(writer, topics.ad)
        reader = LogReader(
            kafka, topics.ad, SCHEMA, batch_size=4_096, dead_letters=bury, until_end=True
        )
        with reader:
            found = ids(drain(reader, 60))
        writer.flush(30)
    assert sorted(found) == list(range(GOOD))
    bad_rows = DAMAGED // 5
    buried = letters(kafka, topics.dead_letter)
    assert len(buried) == DAMAGED + bad_rows
    by_reason = Counter[str]()
    for letter in buried:
        by_reason[letter.reason.value] += letter.count
    assert by_reason == reader.counts.bad
    assert len(by_reason) >= 7
    assert len({(letter.partition, letter.offset) for letter in buried}) == len(buried)
    assert sum(letter.rows == "44" for letter in buried) == bad_rows
