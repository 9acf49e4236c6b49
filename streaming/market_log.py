"""A market as two topics, gone on with after any kind of end: nothing lost, nothing twice.

Records name the market they are from and their last impression's id, ids rise
within a partition, and a partition always takes the same users. So the last
record of every partition says what is in the log, and the market, being
reproducible, is made again from there.

Record timestamps are the wall clock, as everywhere in Kafka. Event times, which may
lie years back, would let retention delete records at once, and a broker that crashes
would forget the writer and take what was under way a second time.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from errors import UserError
from streaming.codec import CONTENT_TYPE, CONTENT_TYPE_ARROW, encode
from streaming.connection import KafkaConfig
from streaming.kafka_clients import consumer, one_line
from streaming.market import SLOT_BITS, Slot
from streaming.partitioning import MAX_RECORD_ROWS, partition_of
from streaming.writer import RecordWriter

MARKET = "market"
LAST_IMPRESSION = "last-impression"

_SETTLED_SECONDS, _SETTLE_LIMIT_SECONDS = 0.5, 10.0
_READ_SECONDS = 30.0
_FIRST_WINDOW = 64

Written = dict[int, int]
"""Partition to the greatest impression id of the market in it; -1: none."""


def label(fingerprint: str, partitions: int) -> str:
    """What a record says of its market: which, and over how many partitions it is spread."""
    return hashlib.sha256(f"{fingerprint} {partitions}".encode()).hexdigest()[:16]


class TopicSink:
    """Writes the not yet written rows of one domain, cut into records of one partition."""

    def __init__(self, writer: RecordWriter, topic: str, market: str, written: Written) -> None:
        self._writer = writer
        self._topic = topic
        self._label = label(market, len(written)).encode()
        self._written = np.array([written[p] for p in range(len(written))], np.int64)

    @property
    def resume_slot(self) -> int:
        """The first slot of which a row may be missing."""
        return int(self._written.min() + 1) >> SLOT_BITS

    def send(self, rows: pa.RecordBatch) -> int:
        """Hand over what of ``rows``, ascending by id, is new; returns the number of rows."""
        partition = partition_of(np.asarray(rows.column("user_id")), len(self._written))
        new = np.asarray(rows.column("impression_id")) > self._written[partition]
        chosen = np.flatnonzero(new)
        chosen = chosen[np.argsort(partition[chosen], kind="stable")]
        if not len(chosen):
            return 0
        ordered, partition = rows.take(pa.array(chosen)), partition[chosen]
        for begin, end in _records(partition):
            self._send_record(ordered.slice(begin, end - begin), int(partition[begin]))
        return len(chosen)

    def _send_record(self, rows: pa.RecordBatch, partition: int) -> None:
        last = rows.column("impression_id")[-1].as_py()
        self._writer.send(
            self._topic,
            encode(rows),
            key=str(partition).encode(),
            headers=[
                (CONTENT_TYPE, CONTENT_TYPE_ARROW.encode()),
                (MARKET, self._label),
                (LAST_IMPRESSION, str(last).encode()),
            ],
            partition=partition,
        )


def _records(partition: np.ndarray) -> Iterator[tuple[int, int]]:
    """Row ranges of one partition each and MAX_RECORD_ROWS at most; ``partition`` is sorted."""
    edges = np.flatnonzero(np.diff(partition)) + 1
    for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(partition)], strict=True):
        for first in range(begin, end, MAX_RECORD_ROWS):
            yield first, min(first + MAX_RECORD_ROWS, end)


def chunks(slot: Slot, rows: int) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Natural and ad rows of ``rows`` successive impressions of both, by event time."""
    parts = (slot.natural, slot.ad)
    total = sum(len(part) for part in parts)
    limits = (slot.index << SLOT_BITS) + np.minimum(np.arange(0, total + rows, rows), total)
    cuts = [np.searchsorted(np.asarray(part.column("impression_id")), limits) for part in parts]
    for i in range(len(limits) - 1):
        natural, ad = (
            part.slice(cut[i], cut[i + 1] - cut[i]) for part, cut in zip(parts, cuts, strict=True)
        )
        yield natural, ad


def written(kafka: KafkaConfig, topic: str, market: str) -> Written:
    """What of the market with fingerprint ``market`` is in the topic.

    Waits until the log has come to rest: what a killed writer had under way may
    still arrive.

    Raises:
        UserError: the topic does not exist, holds another market, is written by
            somebody else, or has lost the records that would tell.
    """
    with contextlib.closing(consumer(kafka)) as reader:
        try:
            partitions = reader.partitions_for_topic(topic)
            if not partitions:
                raise UserError(f"topic '{topic}' does not exist in {kafka.bootstrap_servers}")
            places = [TopicPartition(topic, p) for p in sorted(partitions)]
            reader.assign(places)
            begins, ends = reader.beginning_offsets(places), _settled_ends(reader, places)
            mine = label(market, len(places))
            return {p.partition: _last(reader, p, begins[p], ends[p], mine) for p in places}
        except KafkaError as error:
            raise UserError(f"cannot read topic '{topic}': {one_line(error)}") from error


def _settled_ends(reader: KafkaConsumer, places: list[TopicPartition]) -> dict[TopicPartition, int]:
    deadline = time.monotonic() + _SETTLE_LIMIT_SECONDS
    ends = reader.end_offsets(places)
    while time.monotonic() < deadline:
        time.sleep(_SETTLED_SECONDS)
        before, ends = ends, reader.end_offsets(places)
        if ends == before:
            return dict(ends)
    raise UserError(f"somebody else is writing to topic '{places[0].topic}': stop that first")


def _last(reader: KafkaConsumer, place: TopicPartition, begin: int, end: int, mine: str) -> int:
    """The greatest impression id that a record of ours names, looking from the end back."""
    window, upper = _FIRST_WINDOW, end
    while upper > begin:
        lower = max(begin, upper - window)
        found = _last_in(reader, place, lower, upper, mine)
        if found >= 0:
            return found
        upper, window = lower, window * 8
    if begin > 0:
        raise UserError(
            f"retention has removed the records of topic '{place.topic}' that tell how far the "
            f"market got: take other topics (topics.natural, topics.ad) or another run directory"
        )
    return -1


def _last_in(
    reader: KafkaConsumer, place: TopicPartition, lower: int, upper: int, mine: str
) -> int:
    reader.pause(*reader.assignment())
    reader.resume(place)
    reader.seek(place, lower)
    last, deadline = -1, time.monotonic() + _READ_SECONDS
    while reader.position(place) < upper:
        if time.monotonic() > deadline:
            raise UserError(f"topic '{place.topic}' partition {place.partition} cannot be read")
        for record in reader.poll(timeout_ms=200).get(place, []):
            headers = dict(record.headers)
            if record.offset < upper and MARKET in headers:
                _check_market(headers[MARKET], mine, place.topic)
                last = int(headers[LAST_IMPRESSION])
    return last


def _check_market(theirs: bytes, mine: str, topic: str) -> None:
    if theirs != mine.encode():
        raise UserError(
            f"topic '{topic}' holds another market, or the same over another number of "
            f"partitions: take other topics (topics.natural, topics.ad) or another run directory"
        )
