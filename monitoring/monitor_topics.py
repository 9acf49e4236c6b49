"""The topics that the monitor reads, each with a consumer of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from monitoring.ledger import Ledger
from streaming.connection import KafkaConfig
from streaming.impressions import Position
from streaming.log_consumer import LogConsumer
from streaming.predictions import SourceFilter
from streaming.topics import TopicsConfig

_MAX_RECORDS = 500
_POLL_SECONDS = 0.2  # for a topic's share of a turn: saving, telling and stopping wait so long

LEVEL_DOMAINS = {"tpm": "natural", "cpm": "natural", "actr": "ad"}
"""Level to the impressions that it predicts."""


class Take(Protocol):
    def __call__(self, partition: int, records: list[Any], end: int) -> None:
        """Records of one partition, after which ``end`` is read next."""


@dataclass
class TopicReader:
    """Reads a topic from where the ledger is; without ``take`` only its ends are of interest."""

    consumer: LogConsumer
    topic: str
    take: Take | None
    clock: Callable[[], float] = time.monotonic
    ends: dict[int, int] | None = field(default=None, init=False)
    """Offset after each partition's last record, as last asked for; None: not known yet."""
    _seconds_a_record: float = field(default=0.0, init=False)

    def poll(self, ledger: Ledger) -> int:
        """Take what has come, without waiting; how many records.

        As many at most as take about _POLL_SECONDS, by what the last ones took.
        """
        if self.take is None:
            return 0
        begin = self.clock()
        found, gaps = self.consumer.poll(self._most(), 0, timeout_ms=0)
        for gap in gaps:
            ledger.lost[self.topic] += gap.records
        for partition, records in found:
            self.take(partition, records, records[-1].offset + 1)
        read = sum(len(records) for _, records in found)
        if read:
            self._seconds_a_record = (self.clock() - begin) / read
        return read

    def _most(self) -> int:
        if self._seconds_a_record * _MAX_RECORDS <= _POLL_SECONDS:
            return _MAX_RECORDS
        return max(1, int(_POLL_SECONDS / self._seconds_a_record))

    def ask(self) -> bool:
        """Ask for the topic's ends; whether Kafka answered."""
        ends = self.consumer.ends()
        self.ends = ends if ends is not None else self.ends
        return ends is not None

    def behind(self) -> list[int]:
        """Partitions of which more was there, when last asked, than was read."""
        if self.take is None:
            return []
        ends = self.ends
        return [
            p
            for p in self.consumer.partitions
            if ends is None or self.consumer.position(p) < ends[p]
        ]

    def lag(self) -> float:
        """Records appended and not read; NaN: not known, or not read at all."""
        if self.ends is None or self.take is None:
            return float("nan")
        return sum(max(0, end - self.consumer.position(p)) for p, end in self.ends.items())


class MonitorTopics:
    """All of them. ``stack`` closes them.

    Raises:
        UserError: no broker answers, or a position lies beyond a log's end.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topics: TopicsConfig,
        ledger: Ledger,
        stopping: Callable[[], bool],
        stack: contextlib.ExitStack,
    ) -> None:
        self._ledger, self._kafka, self._stopping, self._stack = ledger, kafka, stopping, stack
        self.away = False
        """Whether Kafka left the last question unanswered."""
        self.predictions: dict[str, TopicReader] = {}
        self._domains = {"natural": topics.natural, "ad": topics.ad}
        readers = []
        for level in ledger.levels:
            models, made = topics.models_of(level), topics.predictions_of(level)
            readers.append(self._open(models, _bound(ledger.announcements, models, level)))
            self.predictions[level] = self._open(made, _bound(ledger.predictions, made, level))
        self._models = readers
        self._impressions = {
            domain: self._open(
                name, _bound(ledger.impressions, name, domain) if ledger.observers else None
            )
            for domain, name in self._domains.items()
        }

    def _open(self, topic: str, take: Take | None) -> TopicReader:
        consumer = LogConsumer(self._kafka, topic, 0, 1, skip_gaps=True, stopping=self._stopping)
        self._stack.callback(consumer.close)
        start = {p: Position(o) for p, o in self._ledger.positions.get(topic, {}).items()}
        if take is not None:
            _, gaps = consumer.enter(start or None, "earliest", 0)
            self._ledger.lost[topic] += sum(gap.records for gap in gaps)
        return TopicReader(consumer, topic, take)

    def poll(self) -> int:
        """Take the predictions and impressions that have come; how many records."""
        readers = self.predictions | self._impressions
        read = sum(reader.poll(self._ledger) for reader in readers.values())
        self._ledger.advance({name: reader.behind() for name, reader in readers.items()})
        return read

    def ask(self) -> int:
        """Ask for the ends of all topics, until one is not told, and take the announcements that
        have come; how many."""
        readers = [*self._models, *self.predictions.values(), *self._impressions.values()]
        self.away = not all(reader.ask() for reader in readers)
        return 0 if self.away else sum(reader.poll(self._ledger) for reader in self._models)

    def lag(self) -> dict[str, float]:
        """Records by topic; of impressions those that the slowest level has not predicted, or
        that observers have not seen, whichever are more."""
        read = [*self._models, *self.predictions.values()]
        lags = {reader.topic: reader.lag() for reader in read}
        for domain, reader in self._impressions.items():
            known = [reader.lag()] + [
                unpredicted(self._ledger.levels[level].seen, reader.topic, reader.ends or {})
                for level in self.predictions
                if LEVEL_DOMAINS.get(level) == domain
            ]
            lags[reader.topic] = max((n for n in known if n == n), default=float("nan"))
        return lags


def _bound(take: Callable[..., None], topic: str, level: str) -> Take:
    def bound(partition: int, records: list[Any], end: int) -> None:
        take(topic, level, partition, records, end)

    return bound


def unpredicted(seen: SourceFilter, topic: str, ends: Mapping[int, int]) -> float:
    """Records of the partitions of which something was predicted; NaN: of none was."""
    last = seen.state().get(topic, {})
    if not last or not ends:
        return float("nan")
    return sum(max(0, ends.get(int(p), 0) - 1 - offset) for p, (offset, _) in last.items())
