"""Follows `predictions.<level>`: the GAUC of what was predicted, beside the market's ceiling."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Protocol

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from numpy.typing import NDArray

from errors import UserError
from monitoring.metrics import Interval, gauc_interval
from monitoring.series import Point, Rows, SeriesBuilder
from monitoring.settings import MonitoringConfig
from monitoring.window import WindowMetrics, measure
from streaming.connection import KafkaConfig
from streaming.kafka_clients import consumer, wait_for_broker
from streaming.predictions import SourceFilter
from streaming.topics import TopicsConfig

_RETRY_SECONDS = 1.0
_MAX_RECORDS = 2_000


class TrueProbabilities(Protocol):
    """What a synthetic market knows of itself: :class:`streaming.truth.Truth`."""

    def lookup(self, impression_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """True click probabilities [B]; NaN where not known."""


class QualityFollower:
    """Reads a level's predictions from the topic's beginning, each impression once.

    Either call `poll` now and then, or `start` a thread that does. A broker
    that is away, or a topic that is not there yet, is `problem` and is tried
    again. Without `truth` there is no ceiling.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topics: TopicsConfig,
        level: str,
        truth: TrueProbabilities | None = None,
        config: MonitoringConfig | None = None,
    ) -> None:
        config = config or MonitoringConfig()
        self.level = level
        self.has_truth = truth is not None
        self.problem = ""
        """Why nothing is read at the moment; empty: all is well."""
        self.impressions = 0
        self.unreadable = 0
        """Records that were no predictions."""
        self._kafka, self._topic, self._truth = kafka, topics.predictions_of(level), truth
        self._series = SeriesBuilder(
            int(config.series_step_seconds * 1000), int(config.series_window_seconds * 1000)
        )
        self._filter = SourceFilter()
        self._consumer: KafkaConsumer | None = None
        self._next: dict[int, int] = {}  # partition to offset, kept over reconnections
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def repeated(self) -> int:
        """Impressions that were predicted again after a restart, and left out here."""
        return self._filter.repeated

    def points(self) -> list[Point]:
        with self._lock:
            return self._series.points()

    def between(self, begin_ms: int, end_ms: int) -> float:
        """GAUC from one event time to another; NaN: undefined."""
        with self._lock:
            return self._series.between(begin_ms, end_ms)

    def metrics(self) -> WindowMetrics:
        """Of the newest window in event time."""
        with self._lock:
            rows = self._series.latest()
        return measure(rows.user, rows.click, rows.probability, rows.truth)

    def interval(self) -> Interval:
        """95 % interval of the newest window's GAUC: the model beats the floor if low > 0.5."""
        with self._lock:
            rows = self._series.latest()
        return gauc_interval(rows.user, rows.click, rows.probability)

    def poll(self, timeout: float = 0.0) -> int:
        """Read what is there, wait at most `timeout` seconds for more; new impressions."""
        try:
            client = self._connected()
            records = client.poll(timeout_ms=int(timeout * 1000), max_records=_MAX_RECORDS)
        except (UserError, KafkaError, OSError) as error:
            self.problem = str(error)
            self._disconnect()
            return 0
        before = self.impressions
        for part in records.values():
            for record in part:
                self._take(record)
                self._next[record.partition] = record.offset + 1
        return self.impressions - before

    def caught_up(self) -> bool:
        """Whether everything appended so far was read; False when that cannot be told."""
        if self._consumer is None:
            return False
        try:
            ends = self._consumer.end_offsets(list(self._consumer.assignment()))
            return all(self._consumer.position(part) >= end for part, end in ends.items())
        except (KafkaError, OSError):
            return False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="quality", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._thread is None or not self._thread.is_alive():
            self._disconnect()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.poll(0.3)
            if self.problem:
                self._stop.wait(_RETRY_SECONDS)

    def _connected(self) -> KafkaConsumer:
        if self._consumer is None:
            wait_for_broker(self._kafka, timeout=0)
            client = consumer(self._kafka, auto_offset_reset="earliest")
            partitions = client.partitions_for_topic(self._topic)
            if not partitions:
                client.close()
                raise UserError(f"no topic {self._topic} yet")
            assigned = [TopicPartition(self._topic, p) for p in sorted(partitions)]
            client.assign(assigned)
            for part in assigned:
                client.seek(part, self._next.get(part.partition, 0))
            self._consumer, self.problem = client, ""
        return self._consumer

    def _disconnect(self) -> None:
        if self._consumer is not None:
            with contextlib.suppress(KafkaError, OSError):
                self._consumer.close()
        self._consumer = None

    def _take(self, record: Any) -> None:
        try:
            rows = self._filter.of_record(record.value or b"", record.headers)
        except ValueError:
            self.unreadable += 1
            return
        if rows.num_rows:
            columns = {name: rows.column(name).to_numpy() for name in rows.schema.names}
            self._add(columns)

    def _add(self, columns: dict[str, NDArray]) -> None:
        ids = columns["impression_id"]
        truth = np.full(len(ids), np.nan) if self._truth is None else self._truth.lookup(ids)
        new = Rows(
            columns["event_time"],
            columns["user_id"],
            columns["click"],
            columns["probability"],
            truth,
        )
        with self._lock:
            self._series.update(new)
            self.impressions += len(ids)


def wait_until_read(follower: QualityFollower, timeout: float) -> bool:
    """Poll until all that was appended is read; False: not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        follower.poll(0.2)
        if follower.problem or follower.caught_up():
            return not follower.problem
    return False
