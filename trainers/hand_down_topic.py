"""Hand-downs on Kafka: CPM announces them on its models' topic, A-CTR follows it.

A compacted topic keeps one record a key, so each hand-down has a key of its own, and a
tombstone when its files are removed. All go to one partition: their order matters.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from kafka import TopicPartition

from streaming.connection import KafkaConfig
from streaming.kafka_clients import consumer, one_line
from streaming.writer import RecordWriter
from trainers.hand_down import HandDown
from trainers.take_over import Announced

log = logging.getLogger(__name__)

PARTITION = 0
POLL_MS = 200
RETRY_SECONDS = 1.0


class Announcer:
    """Writes hand-downs of ``level`` to ``topic``."""

    def __init__(self, writer: RecordWriter, topic: str, level: str) -> None:
        self._writer, self._topic, self._level = writer, topic, level

    def announce(self, hand_down: HandDown) -> None:
        self._send(hand_down.boundary, hand_down.encode())

    def forget(self, boundary: int) -> None:
        self._send(boundary, None)

    def _send(self, boundary: int, value: bytes | None) -> None:
        headers = [("content-type", b"application/json")] if value is not None else []
        key = _prefix(self._level) + str(boundary).encode()
        self._writer.send(self._topic, value, key=key, headers=headers, partition=PARTITION)


class Follower:
    """Reads ``topic`` from its beginning in a thread of its own, until :meth:`close`."""

    def __init__(self, kafka: KafkaConfig, topic: str, level: str, announced: Announced) -> None:
        self._kafka, self._topic, self._level = kafka, topic, level
        self._announced, self._stopping = announced, threading.Event()
        self._thread = threading.Thread(target=self._run, name="hand-downs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:  # whatever Kafka does, A-CTR goes on without
                log.warning("hand-downs on '%s' cannot be read: %s", self._topic, one_line(error))
                self._stopping.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        partition = TopicPartition(self._topic, PARTITION)
        with contextlib.closing(consumer(self._kafka, auto_offset_reset="earliest")) as client:
            client.assign([partition])
            client.seek_to_beginning(partition)
            while not self._stopping.is_set():
                for record in client.poll(POLL_MS).get(partition, ()):
                    self._take(record.key, record.value)

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        prefix = _prefix(self._level)
        if key is None or not key.startswith(prefix):
            return  # a checkpoint's announcement
        try:
            if value is None:
                self._announced.drop(int(key.removeprefix(prefix)))
            else:
                self._announced.put(HandDown.decode(value))
        except ValueError as error:
            log.warning("a record on '%s' is left out: %s", self._topic, error)


def _prefix(level: str) -> bytes:
    return f"{level}/".encode()
