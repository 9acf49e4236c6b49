"""Follows the compacted topic of historical embeddings into a :class:`HistoryStore`.

A thread of its own reads; whoever predicts looks up in the store meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from embeddings.history import Window, empty_window
from embeddings.history_records import decode_window, parse_key, period_end_of
from embeddings.history_store import Bucket, HistoryStore
from errors import UserError
from streaming import kafka_clients
from streaming.connection import KafkaConfig
from streaming.impressions import Position
from streaming.log_consumer import LogConsumer
from streaming.log_gap import LogGapError, LogTruncatedError, instant

log = logging.getLogger(__name__)

_MAX_RECORDS = 500
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 0.2  # how soon one who waits sees that it should stop
_PATIENCE_SECONDS = 10.0  # until one who waits says so


class HistoryFollower:
    """Keeps ``store`` as the topic says, from where the store's local ``file`` ends.

    A broker that is away, or a topic that is not there yet, is ``problem`` and is tried
    again. A record that cannot be used is logged and counted, and changes nothing. Where
    the topic no longer has what comes next, it is read anew from its beginning.

    Args:
        file: the store's local copy; None: none is kept.
        save_seconds: wall-clock time between two copies while things change, seconds.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topic: str,
        store: HistoryStore,
        file: Path | None = None,
        *,
        save_seconds: float = 300.0,
    ) -> None:
        self.store = store
        self.problem = ""
        """Why nothing is read at the moment; empty: all is well."""
        self.records = 0
        """Records read, tombstones and unusable ones too."""
        self.unreadable = 0
        """Records that could not be used."""
        self._kafka, self._topic, self._file = kafka, topic, file
        self._save_seconds = save_seconds
        self._saved_at = time.monotonic()
        self._unsaved = False
        self._changes: dict[Bucket, Window | None] = {}
        self._positions: dict[int, int] = {}
        self._target: dict[int, int] | None = None
        self._ready = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Load the local copy and follow from there on."""
        if self._file is not None:
            self.store.load(self._file)
        self._thread.start()

    def close(self) -> None:
        """Stop following and keep a local copy."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self._save()

    # -- asked by others --------------------------------------------------------------

    def ready(self) -> bool:
        """Whether all is read that the topic held when it was first reached.

        Raises:
            UserError: following has come to an end.
        """
        self._require_alive()
        return self._ready

    def wait_ready(self, stopping: Callable[[], bool]) -> bool:
        """Wait until :meth:`ready`; False: ``stopping`` said to give up."""
        return self._wait(self.ready, stopping, "what there is of historical embeddings")

    def wait_for(self, period_end: int, stopping: Callable[[], bool]) -> bool:
        """Wait until every bucket of both kinds holds ``period_end`` (ms) or a later one.

        A bucket in which nobody was seen says so by the newest period end of its window.

        Returns:
            False: ``stopping`` said to give up.

        Raises:
            UserError: following has come to an end.
        """

        def complete() -> bool:
            self._require_alive()
            return self.store.complete_period_end >= period_end

        return self._wait(
            complete,
            stopping,
            f"historical embeddings of the period that ended {instant(period_end)}",
        )

    def _wait(self, condition: Callable[[], bool], stopping: Callable[[], bool], what: str) -> bool:
        tell_at: float | None = time.monotonic() + _PATIENCE_SECONDS
        with self._changed:
            while not condition():
                if stopping():
                    return False
                if tell_at is not None and time.monotonic() > tell_at:
                    log.warning("waiting for %s%s", what, f": {self.problem}" * bool(self.problem))
                    tell_at = None
                self._changed.wait(_LOOK_SECONDS)
        return True

    def _require_alive(self) -> None:
        if self._failure is not None:
            raise UserError(
                f"historical embeddings of topic '{self._topic}' are not followed any more: "
                f"{self._failure}"
            ) from self._failure

    # -- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._try()
        except BaseException as error:  # or those who wait would do so for ever
            self._failure = error
            log.exception("historical embeddings are not followed any more")

    def _try(self) -> None:
        try:
            self._follow()
        except (LogGapError, LogTruncatedError) as error:
            log.warning("historical embeddings are read anew from the topic's beginning: %s", error)
            self._forget()
        except (UserError, KafkaError, OSError) as error:
            if not self._stop.is_set():
                self._meet(str(error))
                self._stop.wait(_RETRY_SECONDS)

    def _forget(self) -> None:
        self._changes, self._positions, self._target = {}, {}, None
        self.store.clear()

    def _meet(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("historical embeddings: %s", problem)
        self.problem = problem

    def _follow(self) -> None:
        """Read until told to stop, or until something is in the way."""
        kafka_clients.wait_for_broker(self._kafka, timeout=0)  # tried again soon enough
        with contextlib.closing(
            LogConsumer(self._kafka, self._topic, 0, 1, skip_gaps=False, stopping=self._stop.is_set)
        ) as consumer:
            start = self.store.positions | self._positions
            consumer.enter({p: Position(o) for p, o in start.items()}, "earliest", 0)
            while not self._stop.is_set():
                self._step(consumer)

    def _step(self, consumer: LogConsumer) -> None:
        if self._target is None:
            self._target = consumer.ends()
        for partition, records in consumer.poll(_MAX_RECORDS, 0)[0]:
            for record in records:
                self._take(record)
            self._positions[partition] = records[-1].offset + 1
        self._meet(f"Kafka at {self._kafka.bootstrap_servers} is away" if consumer.away else "")
        caught_up = self._target is not None and all(
            consumer.position(p) >= end for p, end in self._target.items()
        )
        # On the way there a bucket may come again and again: only what it is in the end counts.
        if caught_up:
            self._apply()
            self._ready = True
            self._save_now_and_then()

    def _take(self, record: Any) -> None:
        self.records += 1
        try:
            bucket = parse_key(record.key)
            window = self._tombstone(record) if record.value is None else _window_of(bucket, record)
            self.store.check(bucket, window)
        except ValueError as error:
            self.unreadable += 1
            log.warning(
                "topic '%s' partition %d offset %d is passed over: %s",
                self._topic,
                record.partition,
                record.offset,
                error,
            )
            return
        self._changes[bucket] = window

    def _tombstone(self, record: Any) -> Window | None:
        """Nobody, as of the period that the headers name; None where they name none."""
        end = period_end_of(record.headers)
        nobody = empty_window(self.store.kept, self.store.dim)
        return replace(nobody, newest_period_end=end) if end else None

    def _apply(self) -> None:
        if not self._positions:
            return
        self.store.apply(self._changes, self._positions)
        self._changes, self._positions = {}, {}
        self._unsaved = True
        with self._changed:
            self._changed.notify_all()

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > self._save_seconds:
            self._save()

    def _save(self) -> None:
        if self._file is None or not self._unsaved:
            return
        self._saved_at = time.monotonic()
        try:
            self.store.save(self._file)
            self._unsaved = False
        except OSError as error:  # it is a copy only
            log.warning("historical embeddings are not kept in %s: %s", self._file, error)


def _window_of(bucket: Bucket, record: Any) -> Window:
    kind, number, window = decode_window(record.value)
    if (kind, number) != bucket:
        raise ValueError(f"the key says {bucket[0]}/{bucket[1]}, the value {kind}/{number}")
    return window
