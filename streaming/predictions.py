"""Predictions on the wire, and how a reader drops what it has seen before.

A trainer that restarts goes back to its checkpoint and predicts the same
impressions again, in the same batches. Every record therefore names its source
range, and every row its source, so that :class:`SourceFilter` can drop repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from streaming.impressions import (
    CLICK,
    EVENT_TIME,
    IMPRESSION_ID,
    Batch,
    ImpressionSchema,
    Position,
    SourceRows,
)

CONTENT_TYPE = "application/vnd.apache.arrow.stream"

PREDICTIONS = pa.schema(
    [
        pa.field("impression_id", pa.int64(), nullable=False),
        pa.field("event_time", pa.int64(), nullable=False),  # ms
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),  # of a click, before learning
        pa.field("click", pa.int8(), nullable=False),
        pa.field("model_version", pa.int64(), nullable=False),
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
        pa.field("source_row", pa.int32(), nullable=False),
    ]
)
"""Columns of a prediction record, whatever the impression schema calls user and item."""

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
"""Column by column: faster than Kafka's compression of the same bytes, and the broker, which
opens up what Kafka's own compressed, then has half as much to look through."""

Headers = list[tuple[str, bytes]]

APPENDED_AT = "appended-at"

_LATEST = ImpressionSchema().max_event_time
_MOST = 2**53  # of numbers that others read as floats
_POSSIBLE: dict[str, tuple[float, float]] = {
    "event_time": (0, _LATEST),
    "probability": (0, 1),
    "click": (0, 1),
    "model_version": (0, _MOST),
    "source_partition": (0, 2**31 - 1),
    "source_offset": (0, 2**62),
    "source_row": (0, 2**31 - 1),
}

MAX_ROWS = 8_192
"""Impressions in a record, about 61 bytes each."""


class Predicted(NamedTuple):
    """What a version of a model predicted for a batch."""

    rows: pa.RecordBatch  # canonical schema, B rows
    source: SourceRows
    probability_B: np.ndarray
    version: int


def encode_predictions(
    batch: Batch,
    probability_B: np.ndarray,
    model_version: int,
    topic: str,
    *,
    schema: ImpressionSchema,
    level: str,
) -> list[tuple[int, bytes, Headers]]:
    """Records of the predictions of one batch, which was read from ``topic``; see
    :func:`encode_rows`."""
    predicted = Predicted(batch.rows, batch.source, probability_B, model_version)
    rows = prediction_rows([predicted], schema)
    return encode_rows(rows, topic, level=level, appended_at=batch.appended_at)


def prediction_rows(predicted: Sequence[Predicted], schema: ImpressionSchema) -> pa.RecordBatch:
    """What is published of batches, one after the other, in the schema :data:`PREDICTIONS`.

    Raises:
        ValueError: not as many probabilities as impressions.
    """
    sizes = [one.rows.num_rows for one in predicted]
    for one, size in zip(predicted, sizes, strict=True):
        if len(one.probability_B) != size:
            raise ValueError(f"{len(one.probability_B)} probabilities for {size} impressions")
    versions = np.array([one.version for one in predicted], dtype=np.int64)
    columns = [
        _column(predicted, IMPRESSION_ID),
        _column(predicted, EVENT_TIME),
        _column(predicted, schema.user),
        _column(predicted, schema.item),
        _array([one.probability_B for one in predicted], np.float32),
        _column(predicted, CLICK),
        pa.array(np.repeat(versions, sizes)),
        _array([one.source.partition for one in predicted], np.int32),
        _array([one.source.offset for one in predicted], np.int64),
        _array([one.source.row for one in predicted], np.int32),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=PREDICTIONS)


def _column(predicted: Sequence[Predicted], name: str) -> pa.Array:
    return pa.concat_arrays([one.rows.column(name) for one in predicted])


def _array(parts: list[np.ndarray], dtype: type) -> pa.Array:
    return pa.array(np.concatenate(parts, dtype=dtype, casting="same_kind"))


def encode_rows(
    rows: pa.RecordBatch, topic: str, *, level: str, appended_at: int | None = None
) -> list[tuple[int, bytes, Headers]]:
    """Records of one source partition of ``rows`` each: (source partition, value, headers).

    There is one for every MAX_ROWS impressions, to stay below the broker's message limit.

    Args:
        rows: of one batch or of several, one after the other.
        topic: what the batches were read from.
        appended_at: the oldest Kafka timestamp of the batches, ms; None: not known.

    Headers: source-topic, source-partition, first-offset, first-row, last-offset, last-row,
    model-version (of the last row), level, content-type; and appended-at, where it is known.
    """
    partition_N = rows.column("source_partition").to_numpy()
    order_N = np.argsort(partition_N, kind="stable")
    if len(order_N) and partition_N[order_N[0]] != partition_N[order_N[-1]]:
        rows, partition_N = rows.take(pa.array(order_N)), partition_N[order_N]
    records = []
    for start, stop in _shares(partition_N):
        own, partition = rows.slice(start, stop - start), int(partition_N[start])
        headers = _headers(topic, partition, own, level)
        if appended_at is not None:
            headers.append((APPENDED_AT, str(appended_at).encode()))
        records.append((partition, _stream(own), headers))
    return records


def _shares(partition_N: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where in ascending partitions each run of at most MAX_ROWS of the same begins and ends."""
    changes = np.flatnonzero(np.diff(partition_N)) + 1
    bounds = [0, *changes.tolist(), len(partition_N)]
    for begin, end in pairwise(bounds):
        for start in range(begin, end, MAX_ROWS):
            yield start, min(start + MAX_ROWS, end)


def _headers(topic: str, partition: int, rows: pa.RecordBatch, level: str) -> Headers:
    offset, row, version = (
        rows.column(name) for name in ("source_offset", "source_row", "model_version")
    )
    values: dict[str, object] = {
        "source-topic": topic,
        "source-partition": partition,
        "first-offset": offset[0],
        "first-row": row[0],
        "last-offset": offset[-1],
        "last-row": row[-1],
        "model-version": version[-1],
        "level": level,
        "content-type": CONTENT_TYPE,
    }
    return [(name, str(value).encode()) for name, value in values.items()]


def _stream(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, PREDICTIONS, options=_COMPRESSED) as writer:
        writer.write_batch(rows)
    return sink.getvalue().to_pybytes()


def decode_predictions(value: bytes) -> pa.RecordBatch:
    """The rows of a prediction record, in the schema :data:`PREDICTIONS`.

    Raises:
        ValueError: not a prediction record, or one with values that no prediction has.
    """
    # Damaged bytes surface as almost any exception, as with impressions.
    try:
        with pa.ipc.open_stream(value) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except Exception as error:
        raise ValueError(f"not an Arrow stream of predictions: {error}") from None
    if table.schema != PREDICTIONS:
        raise ValueError(f"columns of a prediction record expected, found {table.schema.names}")
    batches = table.combine_chunks().to_batches()
    rows = batches[0] if batches else PREDICTIONS.empty_table().to_batches()[0]
    if rows.num_rows:
        _require_possible(rows)
    return rows


def _require_possible(rows: pa.RecordBatch) -> None:
    if any(column.null_count for column in rows.columns):
        raise ValueError("a null in a prediction record")
    for name, (least, greatest) in _POSSIBLE.items():
        values = rows.column(name).to_numpy()
        if not (values.min() >= least and values.max() <= greatest):  # NaN is neither
            raise ValueError(f"{name} of a prediction record is outside {least} to {greatest}")


def source_range(headers: Sequence[tuple[str, bytes]]) -> tuple[str, int, Position, Position]:
    """Source topic, partition, first and last position that a record's headers name.

    Raises:
        ValueError: a header is missing or not a number.
    """
    found = dict(headers)
    try:
        first = Position(int(found["first-offset"]), int(found["first-row"]))
        last = Position(int(found["last-offset"]), int(found["last-row"]))
        return found["source-topic"].decode(), int(found["source-partition"]), first, last
    except KeyError as error:
        raise ValueError(f"prediction record without the header {error}") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"prediction record with a header without a value: {error}") from None


def appended_at(headers: Sequence[tuple[str, bytes]]) -> int | None:
    """When the oldest impression of the record's batch was appended to Kafka, ms; None: not told.

    Raises:
        ValueError: the header is not a number.
    """
    found = dict(headers).get(APPENDED_AT)
    if found is None:
        return None
    if not 0 <= (moment := int(found)) <= _LATEST:
        raise ValueError(f"no moment: {APPENDED_AT} {found[:40]!r}")
    return moment


class SourceFilter:
    """Lets every source row through once: rows at or before the last one seen are dropped.

    Rows of one source partition must come in the log's order, repeats aside.
    """

    def __init__(self, state: Mapping[str, Mapping[str, Sequence[int]]] | None = None) -> None:
        self._seen = {
            (topic, int(partition)): Position(*position)
            for topic, partitions in (state or {}).items()
            for partition, position in partitions.items()
        }
        self.repeated = 0
        """Rows dropped so far."""

    def state(self) -> dict[str, dict[str, list[int]]]:
        """Topic to partition to [offset, row] of the last row seen, fit for JSON."""
        state: dict[str, dict[str, list[int]]] = {}
        for (topic, partition), seen in self._seen.items():
            state.setdefault(topic, {})[str(partition)] = [seen.offset, seen.row]
        return state

    def seen(self, topic: str, partition: int, last: Position) -> bool:
        """Whether everything up to ``last`` has been seen, so that decoding can be spared."""
        known = self._seen.get((topic, partition))
        return known is not None and last <= known

    def new(self, topic: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of ``rows`` (schema :data:`PREDICTIONS`) not seen before; remembers them."""
        if not rows.num_rows:
            return rows
        partition_B = rows.column("source_partition").to_numpy()
        offset_B = rows.column("source_offset").to_numpy()
        row_B = rows.column("source_row").to_numpy()
        fresh_B = np.ones(rows.num_rows, dtype=bool)
        for partition in np.unique(partition_B).tolist():
            own_B = partition_B == partition
            known = self._seen.get((topic, partition))
            if known is not None:
                late_B = (offset_B > known.offset) | (
                    (offset_B == known.offset) & (row_B > known.row)
                )
                fresh_B &= late_B | ~own_B
            last = np.flatnonzero(own_B)[-1]
            position = Position(int(offset_B[last]), int(row_B[last]))
            self._seen[topic, partition] = max(position, known or position)
        dropped = rows.num_rows - int(fresh_B.sum())
        self.repeated += dropped
        return rows.filter(pa.array(fresh_B)) if dropped else rows

    def of_record(self, value: bytes, headers: Sequence[tuple[str, bytes]]) -> pa.RecordBatch:
        """The rows of a prediction record not seen before; remembers them.

        Raises:
            ValueError: not a prediction record.
        """
        topic, partition, first, last = source_range(headers)
        rows = decode_predictions(value)
        # Rows beyond what the record says of itself would have later ones taken for repeats.
        if rows.num_rows and not _within(rows, partition, first, last):
            raise ValueError("rows of a prediction record are from elsewhere than its headers say")
        return self.new(topic, rows)


def _within(rows: pa.RecordBatch, partition: int, first: Position, last: Position) -> bool:
    partition_B = rows.column("source_partition").to_numpy()
    offset_B, row_B = (rows.column(name).to_numpy() for name in ("source_offset", "source_row"))
    ends = [Position(int(offset_B[i]), int(row_B[i])) for i in (0, -1)]
    return (
        ends == [first, last]
        and bool((partition_B == partition).all())
        and bool((np.diff(offset_B) >= 0).all())
    )
