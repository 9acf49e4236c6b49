"""Writes records to Kafka so that a broker's absence blocks the writer and loses nothing."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from kafka.errors import KafkaError, KafkaTimeoutError

from errors import UserError
from streaming import kafka_clients
from streaming.connection import KafkaConfig

log = logging.getLogger(__name__)

_FOREVER_MS = 2**31 - 1  # 24 days, the most that Kafka's settings hold
_POLL_SECONDS = 0.2  # how soon a waiting thread sees interrupt()
_MISSING_TOPIC_SECONDS = 30.0  # a topic just created may take a moment to be seen


class KafkaWriteError(UserError):
    """A record was not acknowledged by Kafka."""


class RecordWriter:
    """An idempotent producer with a bounded buffer; safe to use from several threads.

    kafka-python retries by itself and bounds no memory, so the bound is kept here:
    :meth:`send` waits while more than ``max_pending_bytes`` are unacknowledged.
    A record is sent at the latest ``linger_ms`` later: requests cost both sides far
    more than the records in them.
    """

    def __init__(
        self, kafka: KafkaConfig, *, max_pending_bytes: int = 32 << 20, linger_ms: int = 5
    ) -> None:
        self._kafka = kafka
        self._producer = kafka_clients.producer(
            kafka,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            # One request of a partition is under way at a time: a batch must be
            # large for throughput, and small enough for the broker's 1 MiB limit
            # if nothing can be compressed. A full one does not wait for other partitions'.
            batch_size=768 * 1024,
            linger_ms=linger_ms,
            delivery_timeout_ms=_FOREVER_MS,
            max_block_ms=1_000,
            allow_auto_create_topics=False,
        )
        self._max_pending_bytes = max_pending_bytes
        self._changed = threading.Condition()
        self._pending_bytes = 0
        self._pending: Counter[int] = Counter()  # records by the flush that they belong to
        self._flushes = 0
        self._failed = 0
        self._failure: BaseException | None = None
        self._interrupted = False
        self._topics: set[str] = set()

    @property
    def pending_bytes(self) -> int:
        """Bytes handed over and not yet acknowledged."""
        return self._pending_bytes

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """Hand a record over; waits while the buffer is full or the topic's partitions unknown.

        ``timestamp_ms``, default now, is more than a label: Kafka ages records by it, and
        after a crash a broker forgets writers whose last record is older than its
        `producer.id.expiration.ms` (24 hours). A batch that was under way when the broker
        crashed may then be written twice.

        Raises:
            KafkaWriteError: too large, the topic does not exist, or :meth:`interrupt`.
        """
        size = len(value or b"") + len(key or b"") + sum(len(k) + len(v) for k, v in headers)
        self._await_topic(topic)
        flush = self._reserve(size)
        try:
            future = self._producer.send(
                topic,
                value=value,
                key=key,
                headers=list(headers),
                partition=partition,
                timestamp_ms=timestamp_ms,
            )
        except BaseException as error:
            self._release(size, flush)
            if isinstance(error, KafkaError):
                raise KafkaWriteError(f"cannot write to topic '{topic}': {error}") from error
            raise
        future.add_callback(functools.partial(self._acknowledged, size, flush))
        future.add_errback(functools.partial(self._refused, size, flush))

    def _await_topic(self, topic: str) -> None:
        missing_since: float | None = None
        while topic not in self._topics:
            try:
                self._producer.partitions_for(topic)
                self._topics.add(topic)
            except KafkaTimeoutError:
                self._check_interrupted()
                if not self._broker_answers():
                    missing_since = None  # the broker is away: no word about the topic
                    continue
                missing_since = missing_since or time.monotonic()
                if time.monotonic() - missing_since > _MISSING_TOPIC_SECONDS:
                    raise KafkaWriteError(
                        f"topic '{topic}' does not exist; create it, or see 'topics.*' in"
                        " 'ecdctr config'"
                    ) from None
            except KafkaError as error:
                raise KafkaWriteError(f"cannot write to topic '{topic}': {error}") from error

    def _broker_answers(self) -> bool:
        try:
            kafka_clients.wait_for_broker(self._kafka, timeout=_POLL_SECONDS)
        except UserError:
            return False
        return True

    def _reserve(self, size: int) -> int:
        with self._changed:
            # A record larger than the whole bound goes alone rather than never.
            self._wait(
                lambda: (
                    not self._pending_bytes or self._pending_bytes + size <= self._max_pending_bytes
                )
            )
            self._pending_bytes += size
            self._pending[self._flushes] += 1
            return self._flushes

    def _release(self, size: int, flush: int) -> None:
        with self._changed:
            self._pending_bytes -= size
            self._pending[flush] -= 1
            if not self._pending[flush]:
                del self._pending[flush]
            self._changed.notify_all()

    def _acknowledged(self, size: int, flush: int, _metadata: object) -> None:
        self._release(size, flush)

    def _refused(self, size: int, flush: int, error: BaseException) -> None:
        with self._changed:
            self._failed += 1
            self._failure = self._failure or error
        self._release(size, flush)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until Kafka has acknowledged everything sent before this call.

        Args:
            timeout: seconds; None: as long as it takes.

        Raises:
            KafkaWriteError: a record since the last flush was refused, or is not
                acknowledged after ``timeout`` or at :meth:`interrupt`.
        """
        with self._changed:
            this, self._flushes = self._flushes, self._flushes + 1
            done = self._wait(lambda: all(flush > this for flush in self._pending), timeout)
            failed, failure = self._failed, self._failure
            self._failed, self._failure = 0, None
            waiting = self._pending.total()
        if failed:
            raise KafkaWriteError(f"Kafka refused {failed} records, the first with: {failure}")
        if not done:
            raise KafkaWriteError(
                f"{waiting} records not acknowledged by Kafka after {timeout:g} s; is it up?"
            )

    def _wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait under the lock, in short naps so that interrupt() needs no lock."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not ready():
            self._check_interrupted()
            left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, _POLL_SECONDS))
        return True

    def _check_interrupted(self) -> None:
        if self._interrupted:
            waiting = self._pending.total()
            raise KafkaWriteError(f"stopped while {waiting} records were not acknowledged by Kafka")

    def interrupt(self) -> None:
        """Make every wait give up within a moment; may be called from a signal handler."""
        self._interrupted = True

    def close(self, timeout: float = 5.0) -> None:
        """Send what is left for at most ``timeout`` seconds, then drop it and say so."""
        try:
            self._producer.close(timeout=timeout)
        except KafkaTimeoutError:
            log.warning("closing with %d records not sent to Kafka", self._pending.total())
            self._producer._sender.force_close()  # close() gives up before it stops the thread

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
