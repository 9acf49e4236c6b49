"""Damaged records among good impressions: none lost, none mixed up. The trainer is given more."""

from __future__ import annotations

from collections import Counter

from damage_support import write_damaged_log
from kafka import TopicPartition
from log_support import SCHEMA, drain, ids

from streaming import kafka_clients
from streaming.dead_letters import Assembly, DeadLetter
from streaming.reader import LogReader
from streaming.writer import RecordWriter

GOOD, DAMAGED = 10_000, 1_000


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
        bad_rows = write_damaged_log(writer, topics.ad, GOOD, DAMAGED)
        reader = LogReader(
            kafka, topics.ad, SCHEMA, batch_size=4_096, dead_letters=bury, until_end=True
        )
        with reader:
            found = ids(drain(reader, 60))
        writer.flush(30)
    assert sorted(found) == list(range(GOOD))
    buried = letters(kafka, topics.dead_letter)
    assert len(buried) == DAMAGED + bad_rows
    by_reason = Counter[str]()
    for letter in buried:
        by_reason[letter.reason.value] += letter.count
    assert by_reason == reader.counts.bad
    assert len(by_reason) >= 7
    assert len({(letter.partition, letter.offset) for letter in buried}) == len(buried)
    assert sum(letter.rows == "44" for letter in buried) == bad_rows
