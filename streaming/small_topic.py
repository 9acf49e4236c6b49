"""Follows a topic of few records, all of them in one partition: their order matters."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from kafka import TopicPartition

from streaming.connection import KafkaConfig
from streaming.kafka_clients import consumer, one_line

log = logging.getLogger(__name__)

PARTITION = 0
POLL_MS = 200
RETRY_SECONDS = 1.0

Take = Callable[[bytes | None, bytes | None], None]
"""Takes a record's key and value; whatever it raises leaves it out, with a line in the log."""


class SmallTopic:
    """Gives ``take`` every record of ``topic``, from its beginning, in a thread of its own, until
    :meth:`close`. After trouble with Kafka it begins again: records may come repeatedly.

    Args:
        what: what the records are, in words.
    """

    def __init__(self, kafka: KafkaConfig, topic: str, what: str, take: Take) -> None:
        self._kafka, self._topic, self._what, self._give = kafka, topic, what, take
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def __enter__(self) -> SmallTopic:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:  # whatever Kafka does, its reader goes on without
                log.warning(
                    "%s on '%s' cannot be read: %s", self._what, self._topic, one_line(error)
                )
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
        try:
            self._give(key, value)
        except Exception as error:  # beginning again would only bring the same record again
            log.warning("a record on '%s' is left out: %s", self._topic, one_line(error)[:300])
