"""A recorded log: a folder as `ecdctr simulate --out` or `ecdctr import --out` writes it.

    LOG/natural/*.parquet, LOG/ad/*.parquet    impressions by event time, a file a stretch
    LOG/truth/*.npy                            true click probabilities, of a market only
    LOG/recorded.json                          only where `trainers.replay.recording` wrote it

Rows come as the live reader would deliver them: put into the records that the importer
sends to a topic, merged over partitions and cut into batches by `streaming.interleave`.
With one partition that is the order of event time, and nothing is late. What was recorded
from topics is in the order that the live reader gave it, and keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from errors import UserError
from streaming.impressions import EVENT_TIME, Batch, ImpressionSchema
from streaming.interleave import Interleaver
from streaming.partitioning import hourly_records, partition_of
from streaming.truth import Truth, truth_dir

NATURAL, AD = "natural", "ad"
DOMAIN = "domain"
"""Column that says where an impression is from, for models that ask: position in DOMAINS."""
DOMAINS = (NATURAL, AD)
RECORDED = "recorded.json"
_AT_ONCE = 16  # batches put together
"""In a log that was recorded from topics: what it holds."""

_Timed = tuple[pa.RecordBatch, np.ndarray]
"""Rows, and for each the greatest event time [N] up to it, ms."""


@dataclass(frozen=True)
class Span:
    """What a domain's files hold."""

    rows: int
    first: int  # event time, ms
    last: int


class RecordedLog:
    """The impressions of both domains of the folder ``path``.

    Args:
        truth: folder of the true click probabilities; default: the log's own, if it has one.

    Raises:
        UserError: there are no ad impressions in it.
    """

    def __init__(self, path: Path, schema: ImpressionSchema, truth: Path | None = None) -> None:
        self.path, self.schema = path, schema
        self._files = {domain: sorted((path / domain).glob("*.parquet")) for domain in DOMAINS}
        if not self._files[AD]:
            raise UserError(
                f"{path} holds no ad impressions (ad/*.parquet): make one with 'ecdctr simulate "
                "--out' or 'ecdctr import --out'"
            )
        self._recorded = (path / RECORDED).exists()
        self.spans = _spans_of(path) if self._recorded else self._spans()
        truth = truth or truth_dir(path)
        self.truth = Truth(truth) if truth.exists() else None

    @property
    def start(self) -> int:
        """Event time of the first impression, ms."""
        return min(span.first for span in self.spans.values() if span.rows)

    @property
    def end(self) -> int:
        """Event time of the last impression, ms."""
        return max(span.last for span in self.spans.values() if span.rows)

    @property
    def identity(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of every file: what tells two logs apart."""
        files = [file for domain in DOMAINS for file in self._files[domain]]
        return [
            (f"{file.parent.name}/{file.name}", (stat := file.stat()).st_size, stat.st_mtime_ns)
            for file in files
        ]

    def batches(self, domains: tuple[str, ...], size: int, partitions: int = 1) -> Iterator[Batch]:
        """Batches of ``size`` impressions in the log's order; the last may be shorter.

        Args:
            partitions: of the topic that the log stands for; what was recorded from one has
                its order already.

        Raises:
            UserError: a file cannot be read, has other columns, or goes back in event time.
        """
        partitions = 1 if self._recorded else partitions
        order = Interleaver(range(partitions), size)
        offsets = [0] * partitions
        for rows in self.stretches(domains):
            for partition, record in _records(rows, self.schema.user, partitions):
                index = np.arange(len(record), dtype=np.int32)
                order.push(partition, offsets[partition], record, index)
                offsets[partition] += 1
            yield from _taken(order)
        for partition in range(partitions):
            order.end(partition)
        yield from _taken(order, last=True)

    def stretches(self, domains: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        """Rows in the log's order; several domains merged by event time, natural ones first
        where it is the same, with the column `domain`.
        """
        if len(domains) == 1:
            return self._of_domain(domains[0])
        marked = [_marked(self._of_domain(d), DOMAINS.index(d)) for d in domains]
        return merged(marked)

    def _of_domain(self, domain: str) -> Iterator[pa.RecordBatch]:
        newest = 0
        for path in self._files[domain]:
            rows = _read(path, self.schema)
            if not len(rows):
                continue
            time_N = rows.column(EVENT_TIME).to_numpy()
            backwards = time_N[0] < newest or (np.diff(time_N) < 0).any()
            if backwards and not self._recorded:
                raise UserError(f"{path} goes back in event time: 'ecdctr import' sorts a log")
            newest = int(time_N[-1])
            yield rows

    def _spans(self) -> dict[str, Span]:
        return {domain: self._span(domain) for domain in DOMAINS}

    def _span(self, domain: str) -> Span:
        files = [file for file in self._files[domain] if _rows_in(file)]
        if not files:
            return Span(0, 0, 0)
        ends = [_read(file, self.schema).column(EVENT_TIME) for file in (files[0], files[-1])]
        return Span(sum(map(_rows_in, files)), ends[0][0].as_py(), ends[1][-1].as_py())


def true_probabilities(log: RecordedLog, impression_id_N: np.ndarray) -> np.ndarray | None:
    """Of a click, float64 [N]; None where the log does not know them all."""
    if log.truth is None:
        return None
    found_N = log.truth.lookup(impression_id_N)
    return None if np.isnan(found_N).any() else found_N


def _spans_of(path: Path) -> dict[str, Span]:
    try:
        spans = json.loads((path / RECORDED).read_text())["spans"]
        return {domain: Span(**spans[domain]) for domain in DOMAINS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path / RECORDED}: {error}") from None


def merged(streams: list[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """One stream by event time of several; an earlier stream goes first in a tie.

    What is late in its stream stays behind what it came after.
    """
    timed = [_timed(stream) for stream in streams]
    held = [next(stream, None) for stream in timed]
    while any(part is not None for part in held):
        # Whatever comes next from a stream is not before the end of what is held of it.
        until = min(int(time_N[-1]) for _, time_N in filter(None, held))
        parts: list[_Timed] = []
        for i, part in enumerate(held):
            if part is None:
                continue
            rows, time_N = part
            cut = len(rows) if time_N[-1] == until else int(np.searchsorted(time_N, until))
            parts.append((rows.slice(0, cut), time_N[:cut]))
            held[i] = (rows.slice(cut), time_N[cut:]) if cut < len(rows) else next(timed[i], None)
        order = np.argsort(np.concatenate([time_N for _, time_N in parts]), kind="stable")
        yield pa.concat_batches([rows for rows, _ in parts]).take(pa.array(order))


def _timed(stream: Iterator[pa.RecordBatch]) -> Iterator[_Timed]:
    newest = 0
    for rows in stream:
        time_N = np.maximum.accumulate(rows.column(EVENT_TIME).to_numpy()).clip(newest)
        newest = int(time_N[-1])
        yield rows, time_N


def _marked(stream: Iterator[pa.RecordBatch], domain: int) -> Iterator[pa.RecordBatch]:
    for rows in stream:
        column = pa.array(np.full(len(rows), domain, np.int64))
        yield rows.append_column(pa.field(DOMAIN, pa.int64(), nullable=False), column)


def _taken(order: Interleaver, *, last: bool = False) -> Iterator[Batch]:
    while stretch := order.take(_AT_ONCE, last=last):
        yield from stretch.batches


def _records(
    rows: pa.RecordBatch, user: str, partitions: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """What the importer would send: records of one partition each, in the order of time."""
    if partitions == 1:
        for start, end in hourly_records(rows.column(EVENT_TIME).to_numpy()):
            yield 0, rows.slice(start, end - start)
        return
    of_row = partition_of(rows.column(user).to_numpy(), partitions)
    for partition in range(partitions):
        chosen = rows.take(pa.array(np.flatnonzero(of_row == partition)))
        for start, end in hourly_records(chosen.column(EVENT_TIME).to_numpy()):
            yield partition, chosen.slice(start, end - start)


def _rows_in(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _read(path: Path, schema: ImpressionSchema) -> pa.RecordBatch:
    try:
        table = pq.read_table(path)
        missing = [name for name in schema.arrow.names if name not in table.column_names]
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(missing)}: give the log's own schema, with "
                f"--config {path.parents[1] / 'schema.toml'}"
            )
        table = table.select(schema.arrow.names).cast(schema.arrow).combine_chunks()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    batches = table.to_batches()
    return batches[0] if batches else schema.empty()
