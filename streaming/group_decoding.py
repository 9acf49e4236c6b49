"""Many records at once, for a fraction of what :func:`streaming.codec.decode` takes each.

Checking 256 rows costs hardly less than checking 8,192: what takes time is not the rows.
So records that came together are checked together, as long as they are what they mostly
are: Arrow streams of one batch, in a schema met before, without a fault. Whatever is
not, and whatever came with a faulty one, is decoded by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from streaming.codec import (
    Decoded,
    Headers,
    Known,
    believable_times,
    decode,
    known_schema,
    schema_message,
)
from streaming.impressions import ImpressionSchema
from streaming.validation import first_faults

MAX_GROUP_ROWS = 16_384
"""Rows checked at once, about: more gain little, and a bad one has all of them decoded again."""

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_MESSAGE_PREFIX = 8  # bytes before a message's metadata: a continuation mark and their length


class Record(Protocol):
    """What :func:`streaming.codec.decode` wants of a Kafka record."""

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def timestamp(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Read:
    """A record whose form is as usual; its rows are unchecked."""

    record: Record
    known: Known
    batch: pa.RecordBatch


def decode_all(records: Iterable[Record], schema: ImpressionSchema) -> Iterator[Decoded]:
    """The impressions in each of ``records``, in order, exactly as `decode` finds them."""
    group: list[_Read] = []
    rows = 0
    for record in records:
        read = _read(record, schema)
        known = read and read.known
        if group and (group[0].known is not known or rows >= MAX_GROUP_ROWS):
            yield from _decoded(group, schema)
            group, rows = [], 0
        if read is None:
            yield _alone(record, schema)
        else:
            group.append(read)
            rows += read.batch.num_rows
    yield from _decoded(group, schema)


def _alone(record: Record, schema: ImpressionSchema) -> Decoded:
    return decode(record.value, record.headers, record.timestamp, schema)


def _read(record: Record, schema: ImpressionSchema) -> _Read | None:
    """None if anything is out of the ordinary: `decode` will say what."""
    value = record.value
    if not value:
        return None
    try:
        message = schema_message(value)
        known = known_schema(message, schema)
        if known is None or not known.plain or value[-8:] != _END_OF_STREAM:
            return None
        rest = pa.py_buffer(value).slice(len(message))
        written = pa.ipc.read_message(rest)
        size = _MESSAGE_PREFIX + written.metadata.size + written.body.size
        batch = pa.ipc.read_record_batch(written, known.written)
        whole = size + len(_END_OF_STREAM) == rest.size
        if not whole or not 0 < batch.num_rows <= schema.max_rows:
            return None
        batch.validate(full=True)
    except Exception:  # damaged bytes surface as almost any
        return None
    return _Read(record, known, batch)


def _decoded(group: list[_Read], schema: ImpressionSchema) -> Iterator[Decoded]:
    rows = _checked(group, schema) if len(group) > 1 else None
    if rows is None:
        for read in group:
            yield _alone(read.record, schema)
        return
    start = 0
    for read in group:
        total = read.batch.num_rows
        unknown = total if read.known.plan.unknown else 0
        part = rows.slice(start, total)
        yield Decoded(part, np.arange(total, dtype=np.int32), total, [], unknown)
        start += total


def _checked(group: list[_Read], schema: ImpressionSchema) -> pa.RecordBatch | None:
    """All rows of ``group``, canonical; None if there is a bad one among them."""
    steps = group[0].known.plan
    strictest = min(believable_times(read.record.timestamp, schema) for read in group)
    try:
        batch = pa.concat_batches([read.batch for read in group])
        columns = steps.columns(batch)
        if first_faults(steps.rules, columns, strictest) is not None:
            return None
        same = steps.identical
        return batch if same else pa.RecordBatch.from_arrays(columns, schema=steps.target)
    except Exception:  # such as a type that cannot be put together
        return None
