import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import predictions
from streaming.impressions import Batch, Feature, ImpressionSchema, Position, SourceRows
from streaming.predictions import (
    PREDICTIONS,
    SourceFilter,
    appended_at,
    decode_predictions,
    encode_predictions,
    source_range,
)

SCHEMA = ImpressionSchema(
    features=(Feature(name="viewer", kind="id"), Feature(name="film", kind="id")),
    user="viewer",
    item="film",
)


def batch_of(source: list[tuple[int, int, int]]) -> Batch:
    """A batch whose impression ids count up from 0, at (partition, offset, row)."""
    ids = np.arange(len(source))
    partition, offset, row = np.array(source, dtype=np.int64).reshape(-1, 3).T
    rows = pa.RecordBatch.from_arrays(
        [pa.array(ids), pa.array(ids + 1_000), pa.array((ids % 2).astype(np.int8))]
        + [pa.array(ids + 7), pa.array(ids * 3)],
        schema=SCHEMA.arrow,
    )
    where = SourceRows(partition.astype(np.int32), offset, row.astype(np.int32))
    return Batch(rows, where, {}, watermark=0)


def encoded(source, probability=None, version=5):
    batch = batch_of(source)
    if probability is None:
        probability = np.linspace(0, 1, len(batch), dtype=np.float32)
    return encode_predictions(batch, probability, version, "ads", schema=SCHEMA, level="actr")


def test_one_record_a_source_partition_with_all_columns():
    records = encoded([(2, 10, 0), (0, 4, 1), (2, 10, 1), (0, 5, 0)])
    assert [partition for partition, _, _ in records] == [0, 2]
    rows = decode_predictions(records[1][1])
    assert rows.to_pydict() == {
        "impression_id": [0, 2],
        "event_time": [1_000, 1_002],
        "user_id": [7, 9],
        "item_id": [0, 6],
        "probability": [0.0, pytest.approx(2 / 3)],
        "click": [0, 0],
        "model_version": [5, 5],
        "source_partition": [2, 2],
        "source_offset": [10, 10],
        "source_row": [0, 1],
    }


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=9))
def test_records_hold_every_row_of_their_partition_in_order(runs):
    offset = iter(range(1_000))
    source = [(partition, next(offset), 0) for partition, rows in runs for _ in range(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "MAX_ROWS", 4)
        records = encoded(source)
    expected = {}
    for row in source:
        expected.setdefault(row[0], []).append(row)
    found = {}
    for partition, value, headers in records:
        rows = decode_predictions(value)
        assert 0 < rows.num_rows <= 4
        columns = ("source_partition", "source_offset", "source_row")
        part = list(zip(*(rows.column(c).to_pylist() for c in columns), strict=True))
        first, last = Position(*part[0][1:]), Position(*part[-1][1:])
        assert source_range(headers) == ("ads", partition, first, last)
        found.setdefault(partition, []).extend(part)
        ids = rows.column("impression_id").to_pylist()
        assert [source[i] for i in ids] == part
    assert list(found.items()) == sorted(expected.items())


def test_records_are_compressed_and_those_that_are_not_can_be_read():
    ((_, value, _),) = encoded([(0, offset, 0) for offset in range(2_000)])
    rows = decode_predictions(value)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    plain = sink.getvalue().to_pybytes()
    assert len(value) < len(plain) / 2
    assert decode_predictions(plain).equals(rows)


def test_headers_name_the_source_range():
    (_, _, headers), _ = encoded([(0, 4, 1), (1, 9, 0), (0, 6, 2)])
    assert source_range(headers) == ("ads", 0, Position(4, 1), Position(6, 2))
    assert dict(headers)["level"] == b"actr"
    assert dict(headers)["model-version"] == b"5"


def test_when_the_batch_was_appended_is_told_where_it_is_known():
    (_, _, without), *_ = encoded([(0, 4, 1)])
    assert appended_at(without) is None
    batch = replace(batch_of([(0, 4, 1)]), appended_at=1_700_000_000_123)
    half = np.array([0.5])
    ((_, value, headers),) = encode_predictions(batch, half, 5, "ads", schema=SCHEMA, level="actr")
    assert appended_at(headers) == 1_700_000_000_123
    assert SourceFilter().of_record(value, headers).num_rows == 1
    with pytest.raises(ValueError):
        appended_at([("appended-at", b"yesterday")])


def test_headers_that_are_missing_are_an_error():
    with pytest.raises(ValueError, match="first-offset"):
        source_range([("source-topic", b"ads")])


@pytest.mark.parametrize("value", [b"", b"nonsense", encoded([(0, 0, 0)])[0][1][:40]])
def test_other_bytes_are_not_predictions(value):
    with pytest.raises(ValueError):
        decode_predictions(value)


def test_a_probability_for_every_impression():
    with pytest.raises(ValueError, match="1 probabilities for 2"):
        encoded([(0, 0, 0), (0, 0, 1)], probability=np.zeros(1))


def test_repeated_rows_are_dropped_and_counted():
    seen = SourceFilter()
    first = decode_predictions(encoded([(0, 0, 0), (0, 0, 1), (0, 1, 0)])[0][1])
    again = decode_predictions(encoded([(0, 1, 0), (0, 1, 1), (0, 2, 0)])[0][1])
    assert seen.new("ads", first) == first
    assert seen.new("ads", again).column("source_offset").to_pylist() == [1, 2]
    assert seen.repeated == 1
    assert seen.new("natural", first) == first  # another topic's offsets are its own
    assert seen.seen("ads", 0, Position(2, 0)) and not seen.seen("ads", 0, Position(2, 1))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=8), st.booleans())
def test_each_row_passes_exactly_once_whatever_is_repeated(spans, restarts):
    """A writer that restarts anywhere goes back, never forward past what it has written."""
    log = [(partition, i // 3, i % 3) for i in range(45) for partition in (0, 1)]
    seen, passed, reached = SourceFilter(), [], 0
    for start, length in [*spans, (0, len(log))]:
        start = min(start, reached)
        part = log[start : start + length]
        reached = max(reached, start + length)
        for _, value, _ in encoded(part):
            rows = seen.new("ads", decode_predictions(value))
            columns = ("source_partition", "source_offset", "source_row")
            passed += zip(*(rows.column(c).to_pylist() for c in columns), strict=True)
        if restarts:
            seen = SourceFilter(json.loads(json.dumps(seen.state())))
    assert sorted(passed) == sorted(log)


def test_empty_rows_pass():
    empty = pa.RecordBatch.from_pylist([], schema=PREDICTIONS)
    assert SourceFilter().new("ads", empty).num_rows == 0
