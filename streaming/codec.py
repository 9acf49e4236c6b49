"""Impressions on the wire: Arrow IPC streams of many rows, JSON of one.

A record is decoded into the rows that can be believed and, by reason, those that
cannot. Nothing that a producer may send makes :func:`decode` raise, and every row
is in exactly one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from streaming.conversion import Plan, Refused, plan
from streaming.impressions import CLICK, ImpressionSchema
from streaming.validation import GOOD, ROW_REASONS, Reason, TimeRange, first_faults

CONTENT_TYPE = "content-type"
CONTENT_TYPE_ARROW = "application/vnd.apache.arrow.stream"
CONTENT_TYPE_JSON = "application/json"

Headers = Sequence[tuple[str, bytes]]

_CONTINUATION = b"\xff\xff\xff\xff"
_NO_ROWS = np.empty(0, dtype=np.int32)
_MAX_CACHED_PLANS = 256
_MAX_SCHEMA_BYTES = 65_536

MAX_DETAIL = 200
"""Characters of an error that a letter carries."""


@dataclass(frozen=True, slots=True)
class Bad:
    """Rows of one record that share a reason, or the record as a whole."""

    reason: Reason
    detail: str
    """What exactly, for a person; may be empty."""
    rows: np.ndarray
    """int32: rows as numbered in the record; empty: the whole record."""
    count: int
    """Impressions affected: for a whole record those it holds, 1 where that cannot be told."""
    value: bytes
    """The record's own bytes, or an Arrow IPC stream of just `rows` in its own schema."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one record held."""

    rows: pa.RecordBatch
    """The good rows, canonical schema, n rows."""
    row_index: np.ndarray
    """int32 [n]: where each stands in the record, bad rows counted too."""
    total_rows: int
    """Rows of the record, good and bad; 0 where that cannot be told."""
    bad: list[Bad]
    """At most one entry a reason."""
    unknown: int = 0
    """Impressions that came with at least one column that the schema does not know."""


def encode(rows: pa.RecordBatch) -> bytes:
    """``rows`` as an Arrow IPC stream, the value of a record of CONTENT_TYPE_ARROW."""
    return _stream(rows.schema, [rows])


def decode(
    value: bytes | None, headers: Headers, timestamp: int, schema: ImpressionSchema
) -> Decoded:
    """The impressions in one record.

    The first bytes decide between Arrow and JSON; where they do not, the content
    type does.

    Args:
        value: the record's value; None is a tombstone.
        headers: the record's headers; only the content type is looked at.
        timestamp: the record's timestamp, ms; negative: it has none.
        schema: what the columns should be.
    """
    try:
        batches, found = _read(value, headers, schema)
        return _checked(value or b"", batches, found, timestamp, schema)
    except Refused as refusal:
        bad = Bad(refusal.reason, refusal.detail, _NO_ROWS, refusal.rows, value or b"")
    except Exception as error:  # whatever a stranger's bytes bring about, the stream goes on
        detail = f"{type(error).__name__}: {error}"[:MAX_DETAIL]
        bad = Bad(Reason.UNDECODABLE_ARROW, detail, _NO_ROWS, 1, value or b"")
    return Decoded(schema.empty(), _NO_ROWS, 0, [bad])


# -- checking -----------------------------------------------------------------


def _checked(
    value: bytes,
    batches: list[pa.RecordBatch],
    steps: Plan,
    timestamp: int,
    schema: ImpressionSchema,
) -> Decoded:
    if not batches:
        raise Refused(Reason.EMPTY_RECORD, "no rows", 0)
    times = believable_times(timestamp, schema)
    parts, faults = [], []
    for batch in batches:
        columns = steps.columns(batch)
        same = steps.identical
        parts.append(batch if same else pa.RecordBatch.from_arrays(columns, schema=steps.target))
        faults.append(first_faults(steps.rules, columns, times))
    rows = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
    total = rows.num_rows
    unknown = total if steps.unknown else 0
    index = np.arange(total, dtype=np.int32)
    if all(fault is None for fault in faults):
        return Decoded(rows, index, total, [], unknown)
    codes = np.concatenate(
        [
            np.full(part.num_rows, GOOD) if fault is None else fault
            for part, fault in zip(parts, faults, strict=True)
        ]
    )
    good = index[codes == GOOD]
    return Decoded(rows.take(pa.array(good)), good, total, _split(value, batches, codes), unknown)


def believable_times(timestamp: int, schema: ImpressionSchema) -> TimeRange:
    """Event times believed in a record of ``timestamp``, ms; negative: it has none."""
    lead = timestamp + schema.max_lead_ms if timestamp >= 0 else schema.max_event_time
    return TimeRange(schema.min_event_time, schema.max_event_time, lead)


def _split(value: bytes, batches: list[pa.RecordBatch], codes: np.ndarray) -> list[Bad]:
    """One entry a reason; rows keep the form in which they were written."""
    found = []
    for code in np.unique(codes[codes < GOOD]):
        rows = np.flatnonzero(codes == code).astype(np.int32)
        if len(rows) == len(codes):
            found.append(Bad(ROW_REASONS[code], "", _NO_ROWS, len(rows), value))
        else:
            found.append(Bad(ROW_REASONS[code], "", rows, len(rows), _only(batches, rows)))
    return found


def _only(batches: list[pa.RecordBatch], rows: np.ndarray) -> bytes:
    """An Arrow IPC stream of some rows, as numbered through ``batches``."""
    ends = np.cumsum([batch.num_rows for batch in batches])
    parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
    starts = ends - [batch.num_rows for batch in batches]
    chosen = [
        piece
        for batch, start, part in zip(batches, starts, parts, strict=True)
        for piece in _take(batch, part - start)
    ]
    return _stream(batches[0].schema, chosen)


def _take(batch: pa.RecordBatch, rows: np.ndarray) -> list[pa.RecordBatch]:
    try:
        return [batch.take(pa.array(rows))] if len(rows) else []
    except (pa.ArrowException, NotImplementedError):
        # A column of a type that cannot be gathered can still be cut.
        return [batch.slice(int(row), 1) for row in rows]


def _stream(schema: pa.Schema, batches: list[pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


# -- reading ------------------------------------------------------------------


def _read(
    value: bytes | None, headers: Headers, schema: ImpressionSchema
) -> tuple[list[pa.RecordBatch], Plan]:
    if not value:
        raise Refused(Reason.EMPTY_RECORD, "no value" if value is None else "no bytes", 0)
    form = _sniff(value) or _declared(headers)
    if form == CONTENT_TYPE_ARROW:
        return _read_arrow(value, schema)
    if form == CONTENT_TYPE_JSON:
        return _read_json(value, schema)
    raise Refused(Reason.UNKNOWN_FORMAT, f"begins with {value[:8].hex(' ')}")


def _sniff(value: bytes) -> str | None:
    if value[:4] == _CONTINUATION:
        return CONTENT_TYPE_ARROW
    return CONTENT_TYPE_JSON if value[:64].lstrip()[:1] == b"{" else None


def _declared(headers: Headers) -> str | None:
    for name, content in headers or ():
        if name.lower() == CONTENT_TYPE and content:
            return content.decode("latin-1").partition(";")[0].strip().lower()
    return None


def _read_arrow(value: bytes, schema: ImpressionSchema) -> tuple[list[pa.RecordBatch], Plan]:
    # Corrupted bytes surface as almost any exception (a field name that is not
    # UTF-8, an absurd allocation), so all of them mean the same here.
    try:
        source = pa.BufferReader(value)
        reader = pa.ipc.open_stream(source)
        batches = [batch for batch in reader if batch.num_rows]
        rest = len(value) - source.tell()
    except Exception as error:
        raise Refused(Reason.UNDECODABLE_ARROW, _one_line(error)) from None
    if rest:
        raise Refused(Reason.UNDECODABLE_ARROW, f"{rest} bytes after the end of the stream")
    rows = sum(batch.num_rows for batch in batches)
    if rows > schema.max_rows:
        raise Refused(Reason.TOO_MANY_ROWS, f"at most {schema.max_rows} rows", rows)
    try:
        for batch in batches:
            batch.validate(full=True)
        return batches, _plan(value, reader.schema, schema)
    except Refused as refusal:
        refusal.rows = rows
        raise
    except Exception as error:
        raise Refused(Reason.UNDECODABLE_ARROW, _one_line(error)) from None


@dataclass(frozen=True, slots=True)
class Known:
    """A written schema that was met before."""

    written: pa.Schema
    plan: Plan
    plain: bool
    """Its message is the very one that Arrow writes here, so the rows' bytes are in our order."""


_known: dict[tuple[int, bytes], Known] = {}


def _plan(value: bytes, written: pa.Schema, schema: ImpressionSchema) -> Plan:
    """The plan for a stream, remembered by the bytes of its schema message."""
    message = schema_message(value)
    if len(message) > _MAX_SCHEMA_BYTES:
        return plan(written, schema.arrow)
    found = known_schema(message, schema)
    if found is None:
        if len(_known) >= _MAX_CACHED_PLANS:
            _known.clear()
        plain = written.serialize().to_pybytes() == message
        found = Known(written, plan(written, schema.arrow), plain)
        # The plan keeps the target schema alive, so its id is not reused.
        _known[id(schema.arrow), message] = found
    return found.plan


def schema_message(value: bytes) -> bytes:
    """The first message of an Arrow stream, its length included."""
    return value[: 8 + int.from_bytes(value[4:8], "little")]


def known_schema(message: bytes, schema: ImpressionSchema) -> Known | None:
    """What is remembered of a schema message from records that :func:`decode` has read."""
    return _known.get((id(schema.arrow), message))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


def _read_json(value: bytes, schema: ImpressionSchema) -> tuple[list[pa.RecordBatch], Plan]:
    try:
        impression = orjson.loads(value)
    except ValueError as error:
        raise Refused(Reason.UNDECODABLE_JSON, _one_line(error)) from None
    if not isinstance(impression, dict):
        kind = type(impression).__name__
        raise Refused(Reason.UNDECODABLE_JSON, f"a {kind}, not an object of one impression")
    if isinstance(impression.get(CLICK), bool):
        impression[CLICK] = int(impression[CLICK])
    form = _json_form(schema)
    for name in form.required:
        if name not in impression:
            raise Refused(Reason.MISSING_COLUMN, f"no column {name}")
    for name in form.integers:
        # Arrow would cut 1.5 to 1 without a word.
        if not _only_integers(impression.get(name)):
            raise Refused(Reason.WRONG_TYPE, f"{name} is not an integer, or not integers")
    unknown = tuple(impression.keys() - form.names)
    steps = replace(form.steps, unknown=unknown) if unknown else form.steps
    return [_one_row(impression, form.type)], steps


def _only_integers(value: Any) -> bool:
    if type(value) is list:
        return all(type(item) is int or item is None for item in value)
    return type(value) is int or value is None


def _one_row(impression: dict[str, Any], type_: pa.StructType) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_struct_array(pa.array([impression], type=type_))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        misfit = next(f for f in type_ if not _fits(impression.get(f.name), f.type))
        detail = f"{misfit.name}: {_one_line(error)}"
        raise Refused(Reason.WRONG_TYPE, detail) from None


def _fits(value: Any, type_: pa.DataType) -> bool:
    try:
        pa.array([value], type=type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class _JsonForm:
    """How a JSON object becomes a row."""

    type: pa.StructType  # columns as wide as JSON's numbers
    steps: Plan  # narrows them
    names: frozenset[str]
    required: tuple[str, ...]
    integers: tuple[str, ...]


_json_forms: dict[int, _JsonForm] = {}


def _json_form(schema: ImpressionSchema) -> _JsonForm:
    target = schema.arrow
    found = _json_forms.get(id(target))
    if found is None:
        wide = {pa.int8(): pa.int64(), pa.float32(): pa.float64()}
        fields = [f.with_type(wide.get(f.type, f.type)) for f in target]
        found = _json_forms[id(target)] = _JsonForm(
            type=pa.struct(fields),
            steps=plan(pa.schema(fields), target),
            names=frozenset(target.names),
            required=tuple(field.name for field in target if not field.nullable),
            integers=tuple(f.name for f in fields if not pa.types.is_floating(f.type)),
        )
    return found
