"""Partitions of one topic, read from given positions, with every jump told.

A thin layer over kafka-python's consumer; used by one thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from errors import UserError
from streaming import kafka_clients
from streaming.connection import KafkaConfig
from streaming.impressions import Position, Positions
from streaming.log_gap import Gap, LogGapError, LogTruncatedError

log = logging.getLogger(__name__)

POLL_MS = 50
_QUESTION_MS = 1_000  # for a question to the broker, which may be away
TOPIC_SECONDS = 5.0  # a topic just created may take a moment to be seen

T = TypeVar("T")


class LogConsumer:
    """Reads the partitions p of ``topic`` with p % world_size == rank.

    Args:
        skip_gaps: go on after records that retention removed, instead of raising.
        stopping: asked between attempts whether to give up waiting for the broker.

    Raises:
        UserError: no broker answers, no such topic, or no partition for this rank.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topic: str,
        rank: int,
        world_size: int,
        *,
        skip_gaps: bool,
        stopping: Callable[[], bool],
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._skip_gaps = skip_gaps
        self._stopping = stopping
        self.away = False
        """Whether the broker left the last question unanswered."""
        self._committer: KafkaConsumer | None = None
        self._scout: KafkaConsumer | None = None
        self._paused: set[int] = set()
        self._client = self._consumer()
        try:
            self.partitions = self._share(rank, world_size)
        except BaseException:
            self.close()
            raise
        self._names = {p: TopicPartition(topic, p) for p in self.partitions}
        self._client.assign(list(self._names.values()))

    def _consumer(self, **more: Any) -> KafkaConsumer:
        return kafka_clients.consumer(
            self._kafka,
            auto_offset_reset="none",  # every jump must be seen and told
            isolation_level="read_committed",
            # An empty partition's fetch must not hold up one that was just resumed.
            fetch_max_wait_ms=POLL_MS,
            max_partition_fetch_bytes=4 << 20,
            request_timeout_ms=15_000,
            metrics_enabled=False,
            **more,
        )

    def _share(self, rank: int, world_size: int) -> list[int]:
        deadline = time.monotonic() + TOPIC_SECONDS
        while not (known := self._known()):
            if self.away and not self._stopping():
                deadline = time.monotonic() + TOPIC_SECONDS
            if self._stopping() or time.monotonic() > deadline:
                raise UserError(
                    f"no topic '{self._topic}' at {self._kafka.bootstrap_servers}: "
                    "'ecdctr simulate' and 'ecdctr import' create the topics, 'topics.*' names them"
                )
            time.sleep(0.1)
        own = [p for p in sorted(known) if p % world_size == rank]
        if not own:
            raise UserError(
                f"topic '{self._topic}' has {len(known)} partitions, too few for "
                f"{world_size} ranks: start fewer ranks"
            )
        return own

    def _known(self) -> set[int] | None:
        """The topic's partitions; None: there are none, or the broker is away."""
        try:
            known: set[int] | None = self._client.partitions_for_topic(self._topic)
        except KafkaError as error:
            self._bear(error)
            return None
        self.away = False
        return known

    # -- positions --------------------------------------------------------------------

    def enter(
        self, start: Positions | None, begin: str | int, watermark: int
    ) -> tuple[Positions, list[Gap]]:
        """Go to ``start``, or to ``begin`` without one; a partition not in it: to its earliest.

        Returns:
            the positions, and the gaps that were skipped.

        Raises:
            LogGapError, LogTruncatedError: a position is no longer, or not yet, in the log.
        """
        first, ends = self._certain(self.firsts), self._certain(self.ends)
        if start is None:
            positions = self._begin(begin, first, ends)
        else:
            positions = {p: start.get(p, Position(first[p])) for p in self.partitions}
        for p, position in positions.items():
            if position > Position(ends[p]):
                raise LogTruncatedError(self._topic, p, position.offset, ends[p])
        gaps = [
            self._gap(p, position.offset, first[p], watermark)
            for p, position in positions.items()
            if position.offset < first[p]
        ]
        self._refuse(gaps)
        positions |= {gap.partition: Position(gap.until) for gap in gaps}
        for p, position in positions.items():
            self._client.seek(self._names[p], position.offset)
        return positions, gaps

    def _begin(self, begin: str | int, first: dict[int, int], ends: dict[int, int]) -> Positions:
        if begin == "earliest":
            return {p: Position(offset) for p, offset in first.items()}
        if begin == "latest":
            return {p: Position(offset) for p, offset in ends.items()}
        found = self._certain(lambda: self._at(int(begin)))
        return {p: Position(found.get(p, ends[p])) for p in self.partitions}

    def _at(self, timestamp_ms: int) -> dict[int, int] | None:
        """The first offset from ``timestamp_ms`` on, of the partitions that have one."""
        names = dict.fromkeys(self._names.values(), timestamp_ms)
        try:
            found = self._client.offsets_for_times(names, timeout_ms=_QUESTION_MS)
        except KafkaError as error:
            self._bear(error)
            return None
        return {p: found[name].offset for p, name in self._names.items() if found.get(name)}

    def _certain(self, question: Callable[[], T | None]) -> T:
        while (answer := question()) is None:
            if self._stopping():
                raise UserError("stopped while Kafka was away")
            time.sleep(POLL_MS / 1_000)
        return answer

    def firsts(self) -> dict[int, int] | None:
        """The first offset that each partition still has; None: the broker is away."""
        return self._ask(self._client.beginning_offsets)

    def ends(self) -> dict[int, int] | None:
        """The offset after the last of each partition; None: the broker is away."""
        return self._ask(self._client.end_offsets)

    def _ask(self, question: Callable[..., dict[Any, int]]) -> dict[int, int] | None:
        try:
            answer = question(list(self._names.values()), timeout_ms=_QUESTION_MS)
        except KafkaError as error:
            self._bear(error)
            return None
        self.away = False
        return {p: answer[name] for p, name in self._names.items()}

    def _bear(self, error: KafkaError) -> None:
        """Take a passing fault for the broker's absence; raise one that stays."""
        if not error.retriable:
            raise UserError(
                f"topic '{self._topic}' at {self._kafka.bootstrap_servers} cannot be read: "
                f"{type(error).__name__}: {kafka_clients.one_line(error)}"
            ) from error
        self.away = True

    def position(self, partition: int) -> int:
        """The offset of the next record that will be read."""
        return int(self._client.position(self._names[partition]))

    def highwater(self, partition: int) -> int:
        """The end of the partition as of its last fetch."""
        return self._client.highwater(self._names[partition]) or 0

    # -- records ----------------------------------------------------------------------

    def poll(
        self, max_records: int, watermark: int, timeout_ms: int = POLL_MS
    ) -> tuple[list[tuple[int, list[Any]]], list[Gap]]:
        """Records by partition, and the gaps that were skipped.

        Raises:
            LogGapError, LogTruncatedError: the log no longer has what comes next.
        """
        self._unpark()
        try:
            found = self._client.poll(timeout_ms=timeout_ms, max_records=max_records)
        except OffsetOutOfRangeError as error:
            return [], self._leave_range(error.args[0], watermark)
        except LogTruncationError as error:
            partition = next(iter(error.divergent_offsets))
            raise LogTruncatedError(
                self._topic, partition.partition, self.position(partition.partition), None
            ) from error
        except KafkaError as error:
            self._bear(error)
            return [], []
        self.away = self.away and not found
        return [(name.partition, records) for name, records in found.items()], []

    def _unpark(self) -> None:
        # kafka-python 3.0.12 sets aside what it has fetched of a paused partition, and
        # takes it up again only if this slot is None. It leaves an exhausted batch there
        # instead, so that a partition once paused may stay silent for ever.
        fetcher = self._client._fetcher
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _leave_range(self, offsets: dict[TopicPartition, int], watermark: int) -> list[Gap]:
        first, ends = self._certain(self.firsts), self._certain(self.ends)
        gaps = []
        for name, offset in offsets.items():
            p = name.partition
            if offset > ends[p]:
                raise LogTruncatedError(self._topic, p, offset, ends[p])
            if offset < first[p]:
                gaps.append(self._gap(p, offset, first[p], watermark))
        self._refuse(gaps)
        for gap in gaps:
            self._client.seek(self._names[gap.partition], gap.until)
        return gaps

    def _gap(self, partition: int, offset: int, first: int, watermark: int) -> Gap:
        before = None
        with suppress(KafkaError):
            name = self._names[partition]
            found = self._client.offsets_for_times({name: 0}, timeout_ms=_QUESTION_MS)[name]
            before = found.timestamp if found else None
        return Gap(self._topic, partition, offset, first, watermark or None, before)

    def _refuse(self, gaps: list[Gap]) -> None:
        if gaps and not self._skip_gaps:
            raise LogGapError(gaps)
        for gap in gaps:
            log.warning("%s; going on without them", gap)

    def pause(self, partition: int, paused: bool) -> None:
        if paused != (partition in self._paused):
            change = self._client.pause if paused else self._client.resume
            change(self._names[partition])
            (self._paused.add if paused else self._paused.discard)(partition)

    @property
    def all_paused(self) -> bool:
        return len(self._paused) == len(self.partitions)

    # -- how far the log has come ---------------------------------------------------------

    def newest(self) -> list[Any]:
        """The last record of each partition, as far as they can be had at once."""
        found: dict[int, Any] = {}
        try:
            # Another client: a seek would throw away what this one has fetched ahead.
            if self._scout is None:
                self._scout = self._consumer()
                self._scout.assign(list(self._names.values()))
            self._seek_to_last(self._scout)
            deadline = time.monotonic() + _QUESTION_MS / 1_000
            while len(found) < len(self.partitions) and time.monotonic() < deadline:
                for name, records in self._scout.poll(timeout_ms=POLL_MS).items():
                    found[name.partition] = records[-1]
        except (KafkaError, UserError):
            pass  # the one that reads will tell
        return list(found.values())

    def _seek_to_last(self, client: KafkaConsumer) -> None:
        names = list(self._names.values())
        first = client.beginning_offsets(names, timeout_ms=_QUESTION_MS)
        ends = client.end_offsets(names, timeout_ms=_QUESTION_MS)
        for name in names:
            client.seek(name, max(first[name], ends[name] - 1))

    # -- the dashboards' copy of our position -------------------------------------------

    def commit(self, group_id: str, positions: Positions) -> None:
        """Commit for lag dashboards; failures are logged, nothing reads this back."""
        if self.away:
            return
        try:
            # A consumer with a group waits for its coordinator before it reads:
            # the one that reads must not depend on it.
            if self._committer is None:
                self._committer = self._consumer(group_id=group_id)
            offsets = {
                self._names[p]: OffsetAndMetadata(position.offset, "", -1)
                for p, position in positions.items()
                if p in self._names
            }
            self._committer.commit_async(offsets, callback=_log_failure)
        except (KafkaError, UserError) as error:
            log.warning("offsets for lag dashboards were not committed: %s", error)

    def close(self) -> None:
        for client in filter(None, (self._client, self._committer, self._scout)):
            with suppress(Exception):
                client.close(autocommit=False, timeout_ms=500)


def _log_failure(_offsets: object, response: object) -> None:
    if isinstance(response, Exception):
        # The next commit makes up for it; a new broker has no coordinator for a while.
        level = logging.INFO if getattr(response, "retriable", False) else logging.WARNING
        log.log(level, "offsets for lag dashboards were not committed: %s", response)
