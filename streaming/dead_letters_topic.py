"""The dead-letter topic: read from end to end, and letters sent back exactly once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from errors import UserError
from streaming import kafka_clients
from streaming.codec import decode
from streaming.connection import KafkaConfig
from streaming.dead_letters import Assembly, DeadLetter, kept_headers
from streaming.impressions import ImpressionSchema

RESENT_FROM = "resent-from"
"""Header of a record that was sent back: topic/partition/offset/reason/rows of its letter."""

_READ_SECONDS = 30.0
_SEND_SECONDS = 30.0
_LETTERS_PER_TRANSACTION = 200


def letters(kafka: KafkaConfig, topic: str, assembly: Assembly) -> Iterator[DeadLetter]:
    """Every letter in the topic once, as it stands when asked; ``assembly`` knows the rest.

    Raises:
        UserError: no broker answers, no such topic, or it stops answering.
    """
    with contextlib.closing(kafka_clients.consumer(kafka, isolation_level="read_committed")) as it:
        for record in _whole_topic(it, topic):
            letter = assembly.add(record.value, record.headers, record.key)
            if letter is not None:
                yield letter


def _whole_topic(client: KafkaConsumer, topic: str) -> Iterator[Any]:
    known = client.partitions_for_topic(topic)
    if not known:
        raise UserError(f"no topic '{topic}'; 'topics.dead_letter' in the configuration names it")
    places = [TopicPartition(topic, p) for p in sorted(known)]
    client.assign(places)
    client.seek_to_beginning(*places)
    ends = client.end_offsets(places)
    deadline = time.monotonic() + _READ_SECONDS
    while any(client.position(place) < ends[place] for place in places):
        found = client.poll(timeout_ms=200)
        for records in found.values():
            yield from records
        if found:
            deadline = time.monotonic() + _READ_SECONDS
        elif time.monotonic() > deadline:
            raise UserError(f"topic '{topic}' was not read to its end: Kafka stopped answering")


def still_bad(letter: DeadLetter, schema: ImpressionSchema) -> str:
    """Why the letter's bytes, sent back now, would be a dead letter again; empty: they would not.

    A part of a record can be good: it is refused as well, or its bad rows would be
    dead letters twice.
    """
    decoded = decode(letter.value, letter.headers, time.time_ns() // 1_000_000, schema)
    return ", ".join(f"{bad.reason} {bad.detail}".strip() for bad in decoded.bad)


class Resender:
    """Sends letters back to where they came from, each one exactly once.

    A record sent back has the bytes, key and content type of the first one, and its
    other headers as `original-<name>`. The record and the mark that says so are
    written in one Kafka transaction; a resend that was killed leaves neither, and a
    second one that runs at the same time is fenced off.

    Raises:
        UserError: no broker answers, or it knows no transactions.
    """

    def __init__(self, kafka: KafkaConfig, dead_letter_topic: str) -> None:
        self._topic = dead_letter_topic
        self._producer: KafkaProducer = kafka_clients.producer(
            kafka, transactional_id=f"ecdctr-resend-{dead_letter_topic}", enable_idempotence=True
        )
        with self._explained():
            self._producer.init_transactions()

    def send(self, chosen: Iterable[DeadLetter], sent: Callable[[DeadLetter], None]) -> None:
        """Send back and mark; ``sent`` is called for each letter once that is certain.

        Raises:
            UserError: Kafka refuses; what was not reported to ``sent`` was not sent.
        """
        pending: list[DeadLetter] = []
        for letter in chosen:
            pending.append(letter)
            if len(pending) == _LETTERS_PER_TRANSACTION:
                self._transaction(pending, sent)
                pending = []
        if pending:
            self._transaction(pending, sent)

    def _transaction(self, batch: list[DeadLetter], sent: Callable[[DeadLetter], None]) -> None:
        with self._explained():
            self._producer.begin_transaction()
            try:
                for future in [f for letter in batch for f in self._write(letter)]:
                    future.get(_SEND_SECONDS)
                self._producer.commit_transaction()
            except BaseException:
                with contextlib.suppress(KafkaError):
                    self._producer.abort_transaction()
                raise
        for letter in batch:
            sent(letter)

    def _write(self, letter: DeadLetter) -> list[Any]:
        origin = "/".join(str(part) for part in letter.identity)
        # What headers said of the record's place in its stream is no longer true.
        headers = [*kept_headers(letter.headers), (RESENT_FROM, origin.encode())]
        known = self._producer.partitions_for(letter.topic)
        # The very partition keeps a user's impressions together, whoever chose it.
        partition = letter.partition if letter.partition in known else None
        value, mark = letter.mark(time.time_ns() // 1_000_000)
        return [
            self._producer.send(letter.topic, letter.value, letter.key, headers, partition),
            self._producer.send(self._topic, value, letter.key, mark),
        ]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            reason = f"{type(error).__name__}: {kafka_clients.one_line(error)}"
            raise UserError(f"not sent back, Kafka refuses: {reason}") from error

    def __enter__(self) -> Resender:
        return self

    def __exit__(self, *exc: object) -> None:
        self._producer.close(timeout=_SEND_SECONDS)
