"""Hand-downs on Kafka: CPM announces them on its models' topic, A-CTR follows it.

A compacted topic keeps one record a key, so each hand-down has a key of its own, and a
tombstone when its files are removed. All go to one partition: their order matters.
"""

from __future__ import annotations

from streaming.connection import KafkaConfig
from streaming.small_topic import PARTITION, SmallTopic
from streaming.writer import RecordWriter
from trainers.hand_down import HandDown
from trainers.take_over import Announced


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


def follow(kafka: KafkaConfig, topic: str, level: str, announced: Announced) -> SmallTopic:
    """Keep ``announced`` as ``topic`` says of ``level``, until that is closed."""
    prefix = _prefix(level)

    def take(key: bytes | None, value: bytes | None) -> None:
        if key is None or not key.startswith(prefix):
            return  # a checkpoint's announcement
        if value is None:
            announced.drop(int(key.removeprefix(prefix)))
        else:
            announced.put(HandDown.decode(value))

    return SmallTopic(kafka, topic, "hand-downs", take)


def _prefix(level: str) -> bytes:
    return f"{level}/".encode()
