"""Snapshots and published windows on the wire: Arrow IPC streams, one bucket a record.

Columns of a snapshot: ``id`` int64, ``vector`` fixed-size list of D float16. Those of a
window: ``id``, ``period_end`` fixed-size list of K int64, ``vector`` of K x D float16.
Kind, bucket, period end and width stand in the stream's metadata, so that a value says
all of itself, and again in the record's headers, for those who look at no values.

Every bucket of both kinds is sent for every period, also one in which nobody was seen:
a period is complete when all 2 x buckets are in.

Legend: N entities, K vectors of each, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.history import KINDS, Snapshot, Window

CONTENT_TYPE = "application/vnd.apache.arrow.stream"

Headers = list[tuple[str, bytes]]
T = TypeVar("T")


def record_key(kind: str, bucket: int) -> bytes:
    """``b"user/17"``."""
    return f"{kind}/{bucket}".encode()


def parse_key(key: bytes | None) -> tuple[str, int]:
    """Kind and bucket of a record's key.

    Raises:
        ValueError: not such a key.
    """
    kind, _, bucket = (key or b"").decode(errors="replace").partition("/")
    if kind not in KINDS or not bucket.isdecimal() or not bucket.isascii():
        raise ValueError(f"the key {key!r} names no kind and bucket")
    return kind, int(bucket)


def record_headers(kind: str, bucket: int, period_end: int, dim: int) -> Headers:
    """Of a record of either topic; ``period_end``: the newest in it, ms."""
    values: dict[str, object] = {
        "kind": kind,
        "bucket": bucket,
        "period-end": period_end,
        "dim": dim,
        "content-type": CONTENT_TYPE,
    }
    return [(name, str(value).encode()) for name, value in values.items()]


def period_end_of(headers: Sequence[tuple[str, bytes]]) -> int:
    """The newest period end that a record's headers name, ms; 0: none."""
    text = dict(headers or ()).get("period-end", b"")
    return int(text) if text.isdigit() else 0


# -- snapshots ----------------------------------------------------------------


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The value of a record of TPM's snapshots."""
    columns = {
        "id": pa.array(snapshot.ids_N),
        "vector": _lists(snapshot.vectors_ND, np.float16),
    }
    return _encode(columns, snapshot.kind, snapshot.bucket, snapshot.period_end)


def snapshot_headers(snapshot: Snapshot) -> Headers:
    return record_headers(snapshot.kind, snapshot.bucket, snapshot.period_end, snapshot.dim)


def decode_snapshot(value: bytes | None) -> Snapshot:
    """What :func:`encode_snapshot` was given.

    Raises:
        ValueError: not a snapshot, or one with vectors that are not finite.
    """
    return _checked(_decode_snapshot, value, "snapshot")


def _decode_snapshot(value: bytes | None) -> Snapshot:
    rows, kind, bucket, period_end = _decode(value)
    ids_N = rows.column("id").to_numpy()
    return Snapshot(kind, bucket, period_end, ids_N, _finite(_matrix(rows, "vector", pa.float16())))


# -- windows ------------------------------------------------------------------


def encode_window(kind: str, bucket: int, window: Window) -> bytes:
    """The value of a record of historical embeddings (or a bucket's last periods, kept)."""
    vectors_NE = window.vectors_NHD.reshape(len(window), window.slots * window.dim)
    columns = {
        "id": pa.array(window.ids_N),
        "period_end": _lists(window.period_ends_NH, np.int64),
        "vector": _lists(vectors_NE, np.float16),
    }
    return _encode(columns, kind, bucket, window.newest_period_end)


def window_headers(kind: str, bucket: int, window: Window) -> Headers:
    return record_headers(kind, bucket, window.newest_period_end, window.dim)


def decode_window(value: bytes | None) -> tuple[str, int, Window]:
    """Kind, bucket and window, as :func:`encode_window` was given them.

    Raises:
        ValueError: not a window, or one with vectors that are not finite.
    """
    return _checked(_decode_window, value, "window of historical embeddings")


def _decode_window(value: bytes | None) -> tuple[str, int, Window]:
    rows, kind, bucket, newest = _decode(value)
    ends_NK = _matrix(rows, "period_end", pa.int64())
    vectors_NE = _finite(_matrix(rows, "vector", pa.float16()))
    slots = ends_NK.shape[1]
    vectors_NKD = vectors_NE.reshape(len(ends_NK), slots, vectors_NE.shape[1] // slots)
    if (ends_NK[:, 1:] > ends_NK[:, :-1]).any() or (ends_NK < 0).any():
        raise ValueError("period ends are not newest first")
    window = Window(rows.column("id").to_numpy(), ends_NK, vectors_NKD, newest)
    return kind, bucket, window


# -- both ---------------------------------------------------------------------


def _encode(columns: dict[str, pa.Array], kind: str, bucket: int, period_end: int) -> bytes:
    metadata = {"kind": kind, "bucket": str(bucket), "period-end": str(period_end)}
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    schema = pa.schema(fields, metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    return sink.getvalue().to_pybytes()


def _decode(value: bytes | None) -> tuple[pa.RecordBatch, str, int, int]:
    """Rows, kind, bucket and newest period end; whatever may be wrong raises its own error."""
    with pa.ipc.open_stream(value) as reader:
        table = reader.read_all().combine_chunks()
    table.validate(full=True)
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    kind, bucket, period_end = (metadata[name] for name in ("kind", "bucket", "period-end"))
    if kind not in KINDS or int(bucket) < 0 or int(period_end) < 0:
        raise ValueError(f"kind '{kind}', bucket {bucket}, period end {period_end}")
    if table.schema.field("id").type != pa.int64() or any(c.null_count for c in table.columns):
        raise ValueError("ids are not int64, or something is null")
    batches = table.to_batches()
    rows = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    return rows, kind, int(bucket), int(period_end)


def _checked(decode: Callable[[bytes | None], T], value: bytes | None, what: str) -> T:
    try:
        return decode(value)
    except Exception as error:  # whatever a stranger's bytes bring about
        raise ValueError(f"not a {what}: {type(error).__name__}: {error}") from None


def _lists(matrix_NE: NDArray, dtype: type[np.generic]) -> pa.FixedSizeListArray:
    flat = np.ascontiguousarray(matrix_NE, dtype).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix_NE.shape[1])


def _matrix(rows: pa.RecordBatch, name: str, of: pa.DataType) -> NDArray:
    """[N, E] a column of fixed-size lists of E."""
    column = rows.column(name)
    if not pa.types.is_fixed_size_list(column.type) or column.type.value_type != of:
        raise ValueError(f"column '{name}' is {column.type}, not fixed-size lists of {of}")
    width = column.type.list_size
    if column.flatten().null_count or not width:
        raise ValueError(f"column '{name}' has lists of nothing")
    return column.flatten().to_numpy().reshape(-1, width)


def _finite(vectors: NDArray[np.float16]) -> NDArray[np.float16]:
    if not np.isfinite(vectors).all():
        raise ValueError("vectors that are not finite numbers")
    return vectors
