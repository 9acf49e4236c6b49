"""The thread that reads ahead: poll, decode, put in order, cut batches.

It owns the Kafka consumer, which is not thread-safe; the trainer's side meets it
in :class:`Shared` alone.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from streaming.codec import Decoded
from streaming.connection import KafkaConfig
from streaming.dead_letters import DeadLetter, dead_letter
from streaming.dedupe import RecentIds
from streaming.group_decoding import decode_all
from streaming.impressions import (
    EVENT_TIME,
    IMPRESSION_ID,
    Batch,
    ImpressionSchema,
    Positions,
    Stretch,
)
from streaming.interleave import Interleaver
from streaming.log_consumer import POLL_MS, LogConsumer
from streaming.log_gap import Gap
from streaming.reader_config import ReaderConfig
from streaming.silence import Silence

_MAX_PROBE_SECONDS = 4.0  # between two questions to a broker that is away
_LOOK_SECONDS = 10.0  # between two looks at the log's end, while it is far away


Prepare = Callable[[pa.RecordBatch], Any]
"""Makes `Batch.prepared` of a batch's rows."""

Finish = Callable[[Batch], Batch]
"""What is left to do to a batch by the process that learns from it."""


@dataclass(frozen=True)
class Assignment:
    """What to read, and from where; ``watermark`` in ms."""

    topic: str
    batch_size: int
    rank: int
    world_size: int
    start: Positions | None
    watermark: int
    until_end: bool
    group_id: str | None
    columns: tuple[str, ...] | None
    """Columns of the batches; None: all."""


@dataclass
class Counts:
    """What was read since the start; written by the reader's thread alone."""

    records: int = 0
    impressions: int = 0
    """Good rows."""
    bad: Counter[str] = field(default_factory=Counter)
    """Rows sent to the dead letters, by reason."""
    late: int = 0
    """Impressions that came after later ones: their partition was silent, or not in order."""
    unknown: int = 0
    """Impressions with columns that the schema does not know."""
    duplicates: int = 0
    """Impressions whose id was seen shortly before; they are learnt all the same."""
    lost_records: int = 0
    """Offsets that retention removed before they were read."""


class Shared:
    """What the reader's thread and its user exchange, guarded by :attr:`changed`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.batches: deque[Batch] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self.stopping = False
        self.commit: Positions | None = None
        self.started_at: Positions | None = None
        self.ends: dict[int, int] = {}
        self.newest_event_time = 0  # ms
        self.counts = Counts()


class ReaderThread(threading.Thread):
    """Reads until ``shared.stopping``, an error, or (bounded) the log's end."""

    def __init__(
        self,
        kafka: KafkaConfig,
        what: Assignment,
        schema: ImpressionSchema,
        config: ReaderConfig,
        dead_letters: Callable[[DeadLetter], None],
        shared: Shared,
        prepare: Prepare | None = None,
        finish: Finish | None = None,
    ) -> None:
        super().__init__(name=f"reader of {what.topic}", daemon=True)
        self._kafka = kafka
        self._what = what
        self._schema = schema
        self._config = config
        self._dead_letters = dead_letters
        self._shared = shared
        self._prepare, self._finish = prepare, finish
        self._counts = shared.counts
        self._recent = RecentIds(config.duplicate_window) if config.duplicate_window else None
        self._silence = Silence(config.idle_partition_seconds)
        self._most_batches = max(2, config.prefetch_rows // (2 * what.batch_size))
        self._refill = self._most_batches // 2
        """Batches put together at once, where the log has them: one by itself costs far more."""
        self._stop_at: dict[int, int] = {}  # bounded: the end offset of each partition
        self._rows_per_record = 1.0
        self._probe_seconds = min(0.5, config.idle_partition_seconds / 4)
        self._probe_pause = self._probe_seconds
        self._probe_at = 0.0
        self._look_at = 0.0

    def run(self) -> None:
        try:
            self._log = self._connect()
            try:
                self._enter()
                while not self._shared.stopping:
                    self._turn()
            finally:
                self._log.close()
        except BaseException as error:
            with self._shared.changed:
                self._shared.error = error
                self._shared.changed.notify_all()

    def commit(self, positions: Positions) -> None:
        """Have the dashboards' copy of our position follow, later."""
        with self._shared.changed:
            self._shared.commit = dict(positions)
            self._shared.changed.notify_all()

    def close(self, seconds: float) -> None:
        """Stop, and wait for it that long at the most."""
        with self._shared.changed:
            self._shared.stopping = True
            self._shared.changed.notify_all()
        if self is not threading.current_thread():
            self.join(seconds)

    def _connect(self) -> LogConsumer:
        return LogConsumer(
            self._kafka,
            self._what.topic,
            self._what.rank,
            self._what.world_size,
            skip_gaps=self._config.on_gap == "skip",
            stopping=lambda: self._shared.stopping,
        )

    def _enter(self) -> None:
        what = self._what
        positions, gaps = self._log.enter(what.start, self._config.begin, what.watermark)
        self._order = Interleaver(self._log.partitions, what.batch_size, positions, what.watermark)
        self._counts.lost_records += sum(gap.records for gap in gaps)
        self._quota = max(1, self._config.prefetch_rows // (2 * len(positions)))
        ends = self._log.ends() or {}
        if what.until_end:
            while not ends and not self._shared.stopping:
                ends = self._log.ends() or {}
            self._stop_at = ends
            self._end_partitions()
        with self._shared.changed:
            self._shared.ends.update(ends)
            self._shared.started_at = positions
            self._shared.changed.notify_all()

    def _turn(self) -> None:
        self._commit()
        if self._idle():
            with self._shared.changed:
                self._shared.changed.wait(POLL_MS / 1_000)
        else:
            self._read()
        self._deliver()
        self._look_ahead()
        if not self._what.until_end:
            self._probe()

    def _idle(self) -> bool:
        """Hold back what has enough rows waiting; True when nothing is left to fetch."""
        for p in self._log.partitions:
            queued = self._order.queued_rows(p)
            if p in self._stop_at and p in self._order.absent:
                continue  # paused for good
            if queued >= self._quota:
                self._log.pause(p, True)
            elif queued < self._quota // 2 or not queued:
                self._log.pause(p, False)
        return self._log.all_paused

    def _read(self) -> None:
        room = max(1, int(self._quota / self._rows_per_record))
        most = min(self._config.max_poll_records, room)
        found, gaps = self._log.poll(most, self._order.watermark)
        for gap in gaps:
            self._pass_over(gap)
        wanted = [
            record
            for partition, records in found
            for record in records
            if record.offset < self._stop_at.get(partition, record.offset + 1)
        ]
        for record, decoded in zip(wanted, decode_all(wanted, self._schema), strict=True):
            self._take_in(record, decoded)
        if found:
            if not self._order.awaited:
                self._probe_at = time.monotonic() + self._probe_seconds
            ends = {p: self._log.highwater(p) for p, _ in found}
            self._shared.ends.update(ends)
        self._end_partitions()

    def _pass_over(self, gap: Gap) -> None:
        self._order.skip(gap.partition, gap.until)
        self._counts.lost_records += gap.records

    def _take_in(self, record: Any, found: Decoded) -> None:
        counts, partition = self._counts, record.partition
        counts.records += 1
        counts.unknown += found.unknown
        for bad in found.bad:
            letter = dead_letter(
                bad, record.topic, partition, record.offset, record.key, record.headers
            )
            self._dead_letters(letter)
            counts.bad[bad.reason.value] += bad.count
        good = len(found.row_index)
        counts.impressions += good
        self._rows_per_record += 0.01 * (good - self._rows_per_record)
        if good:
            self._silence.heard(partition)
        self._order.push(
            partition, record.offset, found.rows, found.row_index, _appended_at(record)
        )

    def _end_partitions(self) -> None:
        """Bounded reading: a partition that has reached its end is not waited for."""
        for p in self._order.awaited & self._stop_at.keys():
            if self._log.position(p) >= self._stop_at[p]:
                self._order.end(p)
                self._log.pause(p, True)

    def _deliver(self) -> None:
        shared, bounded = self._shared, self._what.until_end
        while (room := self._most_batches - len(shared.batches)) >= self._refill:
            stretch = self._order.take(room, last=bounded)
            if stretch is None:
                break
            batches = self._ready(stretch)
            with shared.changed:
                shared.batches.extend(batches)
                shared.changed.notify_all()
        self._counts.late = self._order.late
        self._seen(self._order.newest_read)
        if bounded and not shared.ended and self._order.exhausted:
            with shared.changed:
                shared.ended = True
                shared.changed.notify_all()

    def _ready(self, stretch: Stretch) -> list[Batch]:
        if self._recent is not None:
            ids = stretch.rows.column(IMPRESSION_ID).to_numpy()
            self._counts.duplicates += self._recent.count(ids)
        return list(map(self._finished, stretch.batches))

    def _finished(self, batch: Batch) -> Batch:
        if self._prepare is not None:
            batch = replace(batch, prepared=self._prepare(batch.rows))
        if self._what.columns is not None:
            batch = replace(batch, rows=batch.rows.select(self._what.columns))
        return batch if self._finish is None else self._finish(batch)

    def _look_ahead(self) -> None:
        """What event time has the log come to, where we are not yet?"""
        now = time.monotonic()
        if now < self._look_at or self._log.away or not self._behind():
            return
        records = self._log.newest()
        for record, found in zip(records, decode_all(records, self._schema), strict=True):
            if found.rows.num_rows:
                newest = int(found.rows.column(EVENT_TIME).to_numpy().max())
                self._seen(min(newest, _appended_at(record) or newest))
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def _behind(self) -> bool:
        return any(end > self._order.reached(p) for p, end in self._shared.ends.items())

    def _seen(self, event_time: int) -> None:
        self._shared.newest_event_time = max(self._shared.newest_event_time, event_time)

    def _probe(self) -> None:
        """Ask the broker where the partitions end: which are silent, and is it there?"""
        now = time.monotonic()
        if now < self._probe_at:
            return
        ends = self._log.ends()
        if ends is None:
            self._silence.reset()
            self._probe_pause = min(2 * self._probe_pause, _MAX_PROBE_SECONDS)
        else:
            self._probe_pause = self._probe_seconds
            self._shared.ends.update(ends)
            for p in self._order.awaited:
                if self._silence.silent(p, self._log.position(p), ends[p], now):
                    self._order.end(p)
        self._probe_at = time.monotonic() + self._probe_pause

    def _commit(self) -> None:
        with self._shared.changed:
            positions, self._shared.commit = self._shared.commit, None
        if positions is not None and self._what.group_id is not None:
            self._log.commit(self._what.group_id, positions)


def _appended_at(record: Any) -> int | None:
    return record.timestamp if record.timestamp >= 0 else None
