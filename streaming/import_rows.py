"""A log's rows as impressions: the good ones in canonical form, the bad ones with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from streaming import import_columns as columns
from streaming.import_mapping import Column, LogMapping
from streaming.impressions import CLICK, EVENT_TIME, IMPRESSION_ID
from streaming.validation import GOOD, ROW_REASONS, Reason, TimeRange, first_faults, rules


@dataclass(frozen=True)
class Rejected:
    row: int
    """Row of the log, from 0, malformed lines not counted."""
    reason: Reason
    values: dict[str, object]
    """The columns that were read, as they stood."""


@dataclass
class RowImporter:
    """Converts chunk after chunk; what a column is, is decided by the first chunk."""

    mapping: LogMapping
    unit: str = "auto"
    """Of event times: one of TIME_UNITS."""
    separator: str = " "
    """Between the values of a list that is text."""
    always_hash: frozenset[str] = frozenset()
    """Ids that are hashed even where they look like numbers."""
    rows_seen: int = 0
    _hashed: dict[str, bool] = field(default_factory=dict)

    def convert(self, chunk: pa.RecordBatch) -> tuple[pa.RecordBatch, list[Rejected]]:
        """The good rows of ``chunk`` in canonical form, and the others."""
        schema = self.mapping.schema
        found = {c.name: self._column(c, chunk) for c in self.mapping.columns}
        first = self.rows_seen
        self.rows_seen += chunk.num_rows
        if IMPRESSION_ID not in found:
            found[IMPRESSION_ID] = pa.array(np.arange(first, self.rows_seen))
        arrays = [found[name] for name in schema.arrow.names]
        rows = pa.RecordBatch.from_arrays(arrays, schema=schema.arrow)
        times = TimeRange(schema.min_event_time, schema.max_event_time, schema.max_event_time)
        codes = first_faults(rules(schema.arrow), arrays, times) if len(rows) else None
        if codes is None:
            return rows, []
        bad = np.flatnonzero(codes != GOOD)
        values = chunk.take(pa.array(bad)).to_pylist()
        rejected = [
            Rejected(first + int(row), ROW_REASONS[codes[row]], value)
            for row, value in zip(bad, values, strict=True)
        ]
        return rows.filter(pa.array(codes == GOOD)), rejected

    def _column(self, column: Column, chunk: pa.RecordBatch) -> pa.Array:
        sources = [chunk.column(name) for name in column.sources]
        if column.name == EVENT_TIME:
            if self.unit == "auto":
                self.unit = columns.time_unit(sources[0])
            return columns.event_times(sources[0], self.unit)
        if column.name == CLICK:
            return columns.clicks(sources[0])
        if column.kind == "numeric":
            return columns.numbers(sources[0])
        if column.kind.endswith("[]"):
            return columns.id_lists(sources[0], self._is_hashed(column, sources), self.separator)
        return columns.ids(sources, self._is_hashed(column, sources))

    def _is_hashed(self, column: Column, sources: list[pa.Array]) -> bool:
        if column.name not in self._hashed:
            values = sources[0]
            if column.kind.endswith("[]"):
                values = columns.list_values(values, self.separator)
            looks = len(sources) == 1 and columns.looks_integer(values)
            self._hashed[column.name] = column.name in self.always_hash or not looks
        return self._hashed[column.name]
