"""Puts a topic's partitions in one order and cuts batches, by what the records say.

Records are merged by (event time of the first good row, but no later than the record
was appended; partition; offset), each whole, and a batch ends after exactly
``batch_size`` rows, in the middle of a record if need be. The sequence and the cuts
are a function of the log's contents and the starting positions alone: whatever order
records arrive in, a record is taken only when every partition has shown its next one,
or has been declared at its end.

A record that was cut goes on first after a restart: it was chosen already.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa

from streaming.impressions import EVENT_TIME, Batch, Position, Positions, SourceRows, Stretch


@dataclass(slots=True)
class _Record:
    time: int  # event time of its first good row, ms
    offset: int
    rows: pa.RecordBatch  # good rows
    row: np.ndarray  # int32, where each good row stands in the record
    appended_at: int | None  # timestamp of the Kafka record, ms
    taken: int = 0  # good rows already in batches

    @property
    def left(self) -> int:
        return len(self.row) - self.taken


@dataclass(slots=True)
class _Part:
    """Good rows ``start`` to ``stop`` of a record, the stuff that batches are made of."""

    partition: int
    record: _Record
    start: int
    stop: int

    def rows(self) -> pa.RecordBatch:
        count = self.stop - self.start
        whole = count == len(self.record.row)
        return self.record.rows if whole else self.record.rows.slice(self.start, count)


@dataclass(slots=True)
class _Cut:
    """The parts of a batch."""

    parts: list[_Part]
    size: int
    positions: Positions  # after it


class Interleaver:
    """Merges decoded records of several partitions into batches; not thread-safe.

    Args:
        partitions: the partitions that are read.
        batch_size: rows in a batch.
        positions: where each partition is entered; default: its offset 0.
        watermark: greatest event time seen before these positions, ms.
    """

    def __init__(
        self,
        partitions: Iterable[int],
        batch_size: int,
        positions: Positions | None = None,
        watermark: int = 0,
    ) -> None:
        self._batch_size = batch_size
        self._queues: dict[int, deque[_Record]] = {p: deque() for p in sorted(partitions)}
        start = positions or {}
        self._next: Positions = {p: start.get(p, Position(0)) for p in self._queues}
        self._queued_rows = dict.fromkeys(self._queues, 0)
        self._cut_short = {p for p, position in self._next.items() if position.row}
        self._absent: set[int] = set()  # at their end, or silent: not waited for
        self._awaited = set(self._queues)  # live partitions whose next record is not known
        self._heads: list[tuple[int, int, int]] = []  # heap of (time, partition, offset)
        self._current: int | None = None  # partition whose first record is being taken
        self._parts: list[_Part] = []
        self._filled = 0
        self._newest = 0  # greatest key's event time taken so far
        self.newest_read = 0
        """Greatest event time with which a record began so far, taken or not, ms."""
        self.watermark = watermark
        """Greatest event time in the batches so far, ms."""
        self.late = 0
        """Rows taken although rows of a later record had been taken before."""

    @property
    def awaited(self) -> frozenset[int]:
        """Partitions that hold the others back because their next record is not known."""
        return frozenset(self._awaited)

    @property
    def absent(self) -> frozenset[int]:
        """Partitions at their end or silent."""
        return frozenset(self._absent)

    @property
    def exhausted(self) -> bool:
        """Every partition is at its end and every row is in a batch that was taken."""
        ended = len(self._absent) == len(self._queues)
        return ended and not self._filled and not any(self._queues.values())

    def queued_rows(self, partition: int) -> int:
        """Rows of a partition that are in no batch yet."""
        return self._queued_rows[partition]

    def reached(self, partition: int) -> int:
        """The offset up to which a partition's records were pushed."""
        return self._next[partition].offset

    def push(
        self,
        partition: int,
        offset: int,
        rows: pa.RecordBatch,
        row_index: np.ndarray,
        appended_at: int | None = None,
    ) -> None:
        """Take in the partition's next record: its good rows and where they stand in it.

        A record without good rows only moves the position. A record of a silent
        partition makes it live again.

        Raises:
            ValueError: the record's offset was passed already.
        """
        expected = self._next[partition]
        if offset < expected.offset:
            raise ValueError(f"partition {partition}: offset {offset} came after {expected.offset}")
        self._next[partition] = Position(offset + 1)
        resumes = expected.row > 0 and offset == expected.offset
        taken = int(np.searchsorted(row_index, expected.row)) if resumes else 0
        if taken == len(row_index):
            self._cut_short.discard(partition)
            return
        if not resumes:
            self._cut_short.discard(partition)
        time = rows.column(EVENT_TIME)[0].as_py()
        if appended_at is not None:
            # A clock that runs ahead must not make its partition wait for that time to come.
            time = min(time, appended_at)
        record = _Record(time, offset, rows, row_index, appended_at, taken)
        self._queues[partition].append(record)
        self._queued_rows[partition] += record.left
        self._absent.discard(partition)
        self.newest_read = max(self.newest_read, time)
        if len(self._queues[partition]) == 1:
            self._show_head(partition)

    def skip(self, partition: int, offset: int) -> None:
        """Go on at ``offset``: the records before it are gone."""
        self._next[partition] = Position(offset)
        self._cut_short.discard(partition)

    def end(self, partition: int) -> None:
        """The partition is at its end, or silent: do not wait for its next record."""
        self._absent.add(partition)
        self._awaited.discard(partition)
        if not self._queues[partition]:
            self._cut_short.discard(partition)

    def speak(self, partition: int) -> None:
        """Wait for the partition's next record again."""
        self._absent.discard(partition)
        if not self._queues[partition]:
            self._awaited.add(partition)

    def take(self, most: int, *, last: bool = False) -> Stretch | None:
        """The next full batches, at the most so many; None until one can be decided.

        With ``last``, what is left when every partition is at its end, in a shorter batch.
        """
        cuts: list[_Cut] = []
        while len(cuts) < most and (cut := self._next_cut(last)) is not None:
            cuts.append(cut)
        return self._stretch(cuts) if cuts else None

    def _next_cut(self, last: bool) -> _Cut | None:
        while self._filled < self._batch_size and self._take_part():
            pass
        ended = last and len(self._absent) == len(self._queues)
        if self._filled != self._batch_size and not (ended and self._filled):
            return None
        parts, self._parts = self._parts, []
        size, self._filled = self._filled, 0
        return _Cut(parts, size, self._positions_after(parts[-1]))

    def _show_head(self, partition: int) -> None:
        record = self._queues[partition][0]
        heapq.heappush(self._heads, (record.time, partition, record.offset))
        self._awaited.discard(partition)

    def _take_part(self) -> bool:
        if self._current is None:
            self._current = self._choose()
            if self._current is None:
                return False
        partition = self._current
        record = self._queues[partition][0]
        count = min(record.left, self._batch_size - self._filled)
        self._parts.append(_Part(partition, record, record.taken, record.taken + count))
        record.taken += count
        self._filled += count
        self._queued_rows[partition] -= count
        if not record.left:
            self._current = None
            self._drop_head(partition)
        return True

    def _drop_head(self, partition: int) -> None:
        queue = self._queues[partition]
        queue.popleft()
        if queue:
            self._show_head(partition)
        elif partition not in self._absent:
            self._awaited.add(partition)

    def _choose(self) -> int | None:
        """The partition whose record comes next; None until that is certain."""
        if self._cut_short:
            if any(not self._queues[p] for p in self._cut_short):
                return None
            head = min(head for head in self._heads if head[1] in self._cut_short)
            self._heads.remove(head)
            heapq.heapify(self._heads)
            self._cut_short.discard(head[1])
        elif self._awaited or not self._heads:
            return None
        else:
            head = heapq.heappop(self._heads)
        time, partition, _ = head
        if time < self._newest:
            self.late += self._queues[partition][0].left
        self._newest = max(self._newest, time)
        return partition

    def _stretch(self, cuts: list[_Cut]) -> Stretch:
        parts = [part for cut in cuts for part in cut.parts]
        rows = pa.concat_batches([part.rows() for part in parts])
        counts = [part.stop - part.start for part in parts]
        source = SourceRows(
            np.repeat(np.array([part.partition for part in parts], dtype=np.int32), counts),
            np.repeat(np.array([part.record.offset for part in parts], dtype=np.int64), counts),
            np.concatenate([part.record.row[part.start : part.stop] for part in parts]),
        )
        starts = [0, *accumulate(cut.size for cut in cuts)]
        newest = np.maximum.reduceat(rows.column(EVENT_TIME).to_numpy(), starts[:-1])
        batches = [
            self._batch(cut, rows.slice(start, cut.size), source[start : start + cut.size], time)
            for cut, start, time in zip(cuts, starts[:-1], newest.tolist(), strict=True)
        ]
        return Stretch(rows, batches)

    def _batch(self, cut: _Cut, rows: pa.RecordBatch, source: SourceRows, newest: int) -> Batch:
        self.watermark = max(self.watermark, newest)
        appended = [p.record.appended_at for p in cut.parts if p.record.appended_at is not None]
        oldest = min(appended, default=None)
        return Batch(rows, source, cut.positions, self.watermark, appended_at=oldest)

    def _positions_after(self, last: _Part) -> Positions:
        """Where to go on: at each partition's next good row, so far as that is certain."""
        positions = {}
        for partition, queue in self._queues.items():
            if partition == last.partition:
                # Whether its next record has arrived already must make no difference.
                cut = last.stop < len(last.record.row)
                after = int(last.record.row[last.stop - 1]) + 1
                offset = last.record.offset
                positions[partition] = Position(offset, after) if cut else Position(offset + 1)
            elif queue:
                head = queue[0]
                row = int(head.row[head.taken]) if head.taken else 0
                positions[partition] = Position(head.offset, row)
            else:
                positions[partition] = self._next[partition]
        return positions
