"""Records in, good rows and bad rows out: nothing raised, nothing lost, nothing twice."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.codec import (
    CONTENT_TYPE_ARROW,
    CONTENT_TYPE_JSON,
    decode,
    encode,
)
from streaming.impressions import Feature, ImpressionSchema
from streaming.validation import Reason

SCHEMA = ImpressionSchema(
    features=(
        Feature(name="user_id", kind="id"),
        Feature(name="item_id", kind="id"),
        Feature(name="creative_id", kind="id", optional=True),
        Feature(name="recent_items", kind="id", multi=True, table="item_id"),
        Feature(name="segment", kind="categorical"),
        Feature(name="age", kind="numeric"),
        Feature(name="price", kind="numeric", optional=True),
    ),
    max_rows=5_000,
)
NOW = 1_700_000_000_000


def columns(n, seed=0):
    """Good columns as a producer would have them: Python lists by name."""
    rng = random.Random(seed)
    return {
        "impression_id": list(range(n)),
        "event_time": [NOW - n + i for i in range(n)],
        "click": [rng.randrange(2) for _ in range(n)],
        "user_id": [rng.randrange(2**62) for _ in range(n)],
        "item_id": [rng.randrange(1_000) for _ in range(n)],
        "creative_id": [rng.choice([None, 7]) for _ in range(n)],
        "recent_items": [[rng.randrange(9) for _ in range(rng.randrange(4))] for _ in range(n)],
        "segment": [rng.randrange(12) for _ in range(n)],
        "age": [rng.random() for _ in range(n)],
        "price": [rng.choice([None, 1.5]) for _ in range(n)],
    }


def arrow(data, types=None, options=None):
    """Columns as an Arrow IPC stream, of the canonical types unless said otherwise."""
    types = types or {}
    fields = {f.name: f.type for f in SCHEMA.arrow}
    arrays = [pa.array(v, type=types.get(k, fields.get(k))) for k, v in data.items()]
    return stream([pa.RecordBatch.from_arrays(arrays, names=list(data))], options)


def stream(batches, options=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read(value, headers=(), timestamp=-1):
    return decode(value, list(headers), timestamp, SCHEMA)


def whole(decoded):
    """The reason for which a record as a whole was refused."""
    assert decoded.rows.num_rows == 0
    assert decoded.rows.schema == SCHEMA.arrow
    (bad,) = decoded.bad
    assert not len(bad.rows)
    return bad.reason


def good():
    return pa.RecordBatch.from_pydict(columns(20), schema=SCHEMA.arrow)


# -- what is fine -------------------------------------------------------------


def test_round_trip():
    decoded = read(encode(good()))
    assert decoded.rows.equals(good())
    assert decoded.bad == []
    assert decoded.total_rows == 20
    assert decoded.unknown == 0
    assert decoded.row_index.tolist() == list(range(20))
    assert decoded.row_index.dtype == np.int32


def test_batches_of_one_record_are_numbered_through():
    batch = good()
    spoilt = columns(5)
    spoilt["user_id"][2] = -1
    other = pa.RecordBatch.from_pydict(spoilt, schema=SCHEMA.arrow)
    decoded = read(stream([batch, batch.slice(0, 0), other, batch]))
    assert decoded.total_rows == 45
    assert decoded.row_index.tolist() == [*range(22), *range(23, 45)]
    (bad,) = decoded.bad
    assert bad.rows.tolist() == [22]
    (row,) = pa.ipc.open_stream(bad.value).read_all().to_pylist()
    assert row == other.slice(2, 1).to_pylist()[0]


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("impression_id", pa.int32()),
        ("impression_id", pa.uint64()),
        ("segment", pa.uint8()),
        ("segment", pa.float32()),
        ("item_id", pa.dictionary(pa.int16(), pa.int32())),
        ("creative_id", pa.int16()),
        ("creative_id", pa.float64()),
        ("click", pa.float64()),
        ("click", pa.bool_()),
        ("click", pa.int64()),
        ("age", pa.float64()),
        ("price", pa.float16()),
        ("age", pa.int32()),
        ("recent_items", pa.large_list(pa.int64())),
        ("recent_items", pa.list_(pa.uint16())),
        ("recent_items", pa.list_(pa.dictionary(pa.int8(), pa.int64()))),
        ("recent_items", pa.list_(pa.field("element", pa.int64(), nullable=False))),
    ],
)
def test_other_types_that_fit(name, type_):
    data = columns(20)
    if type_ == pa.int32() and name == "age":
        data["age"] = [0] * 20
    if name == "click" and pa.types.is_boolean(type_):
        data["click"] = [bool(c) for c in data["click"]]
    if pa.types.is_dictionary(type_):
        array = pa.array(data[name], type_.value_type).dictionary_encode()
        batch = good()
        place = batch.schema.get_field_index(name)
        value = stream([batch.set_column(place, name, array)])
    else:
        value = arrow(data, {name: type_})
    decoded = read(value)
    assert decoded.bad == []
    assert decoded.rows.schema == SCHEMA.arrow
    np.testing.assert_equal(
        decoded.rows.drop_columns(["age"]).to_pydict(), good().drop_columns(["age"]).to_pydict()
    )


def test_column_of_nulls_or_empty_lists_only():
    batch = good()
    nulls = batch.set_column(5, "creative_id", pa.nulls(20))
    empty = nulls.set_column(6, "recent_items", pa.array([[]] * 20))
    assert empty.schema.field("recent_items").type == pa.list_(pa.null())
    decoded = read(stream([empty]))
    assert decoded.bad == []
    assert decoded.rows.column("creative_id").null_count == 20
    assert decoded.rows.column("recent_items").to_pylist() == [[]] * 20


def test_fixed_size_lists():
    lists = pa.array([[1, 2]] * 20, pa.list_(pa.int32(), 2))
    decoded = read(stream([good().set_column(6, "recent_items", lists)]))
    assert decoded.rows.column("recent_items").to_pylist() == [[1, 2]] * 20


def test_missing_optional_columns_are_null_and_extra_ones_are_counted():
    data = columns(8)
    del data["creative_id"], data["price"]
    data["surprise"] = ["x"] * 8
    decoded = read(arrow(data))
    assert decoded.bad == []
    assert decoded.unknown == 8
    assert decoded.rows.schema == SCHEMA.arrow
    assert decoded.rows.column("creative_id").null_count == 8


def test_compressed_streams():
    for codec in ("lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=codec)
        assert read(arrow(columns(20), options=options)).rows.equals(good())


# -- which form ---------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", CONTENT_TYPE_ARROW.encode())],
        [("Content-Type", b"Application/VND.apache.arrow.stream; x=y")],
        [("content-type", CONTENT_TYPE_JSON.encode())],
        [("content-type", b"avro/binary"), ("trace", b"\xff")],
        [("content-type", None)],
    ],
)
def test_arrow_whatever_the_header_says(headers):
    assert read(encode(good()), headers).rows.num_rows == 20


def test_form_that_nothing_tells():
    assert whole(read(b"\x00\x01 what")) is Reason.UNKNOWN_FORMAT
    assert whole(read(b"[1]", [("content-type", b"text/csv")])) is Reason.UNKNOWN_FORMAT
    assert whole(read(b"[1]", [("content-type", b"application/json")])) is Reason.UNDECODABLE_JSON
    arrow_header = [("content-type", CONTENT_TYPE_ARROW.encode())]
    assert whole(read(b"garbage", arrow_header)) is Reason.UNDECODABLE_ARROW


# -- JSON ---------------------------------------------------------------------


def one(**changes):
    row = {name: values[0] for name, values in columns(1).items()} | changes
    return json.dumps({k: v for k, v in row.items() if v is not ...}).encode()


def test_json_is_one_impression():
    for value in (one(), b"\n  " + one(), one(click=False), one(creative_id=..., price=...)):
        decoded = read(value)
        assert decoded.bad == []
        assert decoded.total_rows == 1
        assert decoded.rows.schema == SCHEMA.arrow
    assert read(one()).rows.equals(pa.RecordBatch.from_pydict(columns(1), schema=SCHEMA.arrow))
    assert read(one(click=True)).rows.column("click").to_pylist() == [1]
    assert read(one(extra={"a": [1]})).unknown == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (one(user_id=...), Reason.MISSING_COLUMN),
        (one(user_id=None), Reason.NULL_VALUE),
        (one(user_id="12"), Reason.WRONG_TYPE),
        (one(user_id=1.5), Reason.WRONG_TYPE),
        (one(user_id=2**63), Reason.WRONG_TYPE),
        (one(user_id=True), Reason.WRONG_TYPE),
        (one(recent_items=[1, 2.5]), Reason.WRONG_TYPE),
        (one(recent_items=[True]), Reason.WRONG_TYPE),
        (one(age="old"), Reason.WRONG_TYPE),
        (one(age=None), Reason.NULL_VALUE),
        (one(user_id=-1), Reason.BAD_ID),
        (one(recent_items=3), Reason.WRONG_TYPE),
        (one(recent_items=[1, None]), Reason.NULL_IN_LIST),
        (one(recent_items=["a"]), Reason.WRONG_TYPE),
        (one(click=2), Reason.BAD_CLICK),
        (one(click=300), Reason.BAD_CLICK),
        (one(click="1"), Reason.WRONG_TYPE),
        (one(age=1e300), Reason.NOT_FINITE),
        (one(age=float("nan")), Reason.UNDECODABLE_JSON),
        (one(event_time=3), Reason.EVENT_TIME_RANGE),
        (one()[:-4], Reason.UNDECODABLE_JSON),
        (one() + b"}", Reason.UNDECODABLE_JSON),
        (b'{"user_id": "\xff\xfe"}', Reason.UNDECODABLE_JSON),
        (b'{"a":' * 2_000, Reason.UNDECODABLE_JSON),
        (b"{}", Reason.MISSING_COLUMN),
    ],
)
def test_bad_json_keeps_its_bytes(value, reason):
    decoded = read(value)
    assert whole(decoded) is reason
    assert decoded.bad[0].value == value
    assert decoded.bad[0].count == 1


# -- whole records ------------------------------------------------------------


def test_empty_records():
    for value in (None, b"", encode(good().slice(0, 0))):
        decoded = read(value)
        assert whole(decoded) is Reason.EMPTY_RECORD
        assert decoded.bad[0].count == 0
        assert decoded.bad[0].value == (value or b"")


def test_refused_as_a_whole():
    data = columns(3)
    strings = {**data, "user_id": ["a", "b", "c"]}
    value = arrow(strings, {"user_id": pa.string()})
    assert whole(read(value)) is Reason.WRONG_TYPE
    assert read(value).bad[0].value == value
    assert "user_id is string" in read(value).bad[0].detail
    del data["user_id"]
    assert whole(read(arrow(data))) is Reason.MISSING_COLUMN
    batch = good()
    twice = batch.append_column("user_id", batch.column("user_id"))
    assert whole(read(stream([twice]))) is Reason.WRONG_TYPE
    assert whole(read(arrow(columns(5_001)))) is Reason.TOO_MANY_ROWS
    assert read(arrow(columns(5_001))).bad[0].count == 5_001
    assert whole(read(encode(good()) * 2)) is Reason.UNDECODABLE_ARROW


def nulls(n):
    """A null array that takes no memory, as it takes none on the wire."""
    return pa.Array.from_buffers(pa.null(), n, [None])


def test_lengths_that_cost_no_bytes_are_not_believed():
    huge = pa.RecordBatch.from_arrays([nulls(2**31 - 1)], names=["user_id"])
    assert whole(read(stream([huge]))) is Reason.TOO_MANY_ROWS
    lists = pa.ListArray.from_arrays(pa.array([0, 2**30], pa.int32()), nulls(2**30))
    batch = good().slice(0, 1).set_column(6, "recent_items", lists)
    assert whole(read(stream([batch]))) is Reason.WRONG_TYPE


def damaged_rows_never_escape(decoded, value):
    """Whatever came in: rows in one of the two places, good ones within bounds."""
    rows = decoded.rows
    rows.validate(full=True)
    assert rows.schema == SCHEMA.arrow
    assert len(decoded.row_index) == rows.num_rows
    if decoded.total_rows:
        listed = [bad.rows if len(bad.rows) else np.arange(bad.count) for bad in decoded.bad]
        every = np.concatenate([decoded.row_index, *listed])
        assert sorted(every.tolist()) == list(range(decoded.total_rows))
    else:
        assert decoded.bad[0].value == value
    assert set(rows.column("click").to_pylist()) <= {0, 1}
    for name in ("impression_id", "user_id", "item_id", "segment"):
        assert all(v is not None and v >= 0 for v in rows.column(name).to_pylist())
    for items in rows.column("recent_items").to_pylist():
        assert all(item is not None and item >= 0 for item in items)


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_truncated_at_every_length(compression):
    value = arrow(columns(6), options=pa.ipc.IpcWriteOptions(compression=compression))
    for length in range(len(value)):
        damaged_rows_never_escape(read(value[:length]), value[:length])


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_flipped_bytes(compression):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    items = pa.array(columns(20)["item_id"]).dictionary_encode()
    batch = good().set_column(4, "item_id", items)
    value = stream([batch, batch], options)
    rng = random.Random(7)
    for _ in range(1_500):
        damaged = bytearray(value)
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(len(damaged))] = rng.choice(
                [0, 1, 127, 128, 255, rng.randrange(256)]
            )
        damaged_rows_never_escape(read(bytes(damaged)), bytes(damaged))


# -- rows ---------------------------------------------------------------------

FAULTS = {
    Reason.NULL_VALUE: [("user_id", None), ("click", None), ("recent_items", None), ("age", None)],
    Reason.NULL_IN_LIST: [("recent_items", [1, None])],
    Reason.BAD_ID: [("item_id", -5), ("impression_id", -1), ("recent_items", [3, -1])],
    Reason.BAD_CLICK: [("click", 2), ("click", -1), ("click", float("nan")), ("click", 0.5)],
    Reason.EVENT_TIME_RANGE: [("event_time", 5), ("event_time", -1)],
    Reason.EVENT_TIME_AHEAD: [("event_time", NOW + SCHEMA.max_lead_ms + 1)],
    Reason.NOT_FINITE: [("age", float("nan")), ("price", float("inf")), ("age", 1e39)],
}
FAULT = st.sampled_from([(reason, *fault) for reason, all_ in FAULTS.items() for fault in all_])
WIDE = {"click": pa.float64(), "age": pa.float64(), "price": pa.float64()}


@settings(max_examples=150, deadline=None)
@given(
    faults=st.lists(st.none() | FAULT, min_size=1, max_size=40),
    cut=st.integers(0, 40),
    extra=st.booleans(),
)
def test_good_and_bad_rows_partition_the_record(faults, cut, extra):
    n = len(faults)
    data = columns(n)
    injected: dict[Reason, list[int]] = {}
    for row, fault in enumerate(faults):
        if fault:
            reason, name, value = fault
            data[name][row] = value
            injected.setdefault(reason, []).append(row)
    if extra:
        data["note"] = [str(row) for row in range(n)]
    types = {field.name: field.type for field in SCHEMA.arrow} | WIDE
    batch = pa.RecordBatch.from_arrays(
        [pa.array(values, types.get(name)) for name, values in data.items()], names=list(data)
    )
    value = stream([batch.slice(0, cut), batch.slice(cut)] if cut < n else [batch])

    decoded = read(value, timestamp=NOW)

    assert decoded.total_rows == n
    assert decoded.unknown == (n if extra else 0)
    found = {bad.reason: bad for bad in decoded.bad}
    assert len(found) == len(decoded.bad)
    assert {reason: bad.count for reason, bad in found.items()} == {
        reason: len(rows) for reason, rows in injected.items()
    }
    for reason, rows in injected.items():
        bad = found[reason]
        if len(rows) == n:
            assert not len(bad.rows)
            assert bad.value == value
            continue
        assert bad.rows.tolist() == rows
        kept = pa.ipc.open_stream(bad.value).read_all()
        assert kept.schema == batch.schema
        assert repr(kept.to_pylist()) == repr(batch.take(pa.array(rows)).to_pylist())
    survivors = [row for row, fault in enumerate(faults) if not fault]
    assert decoded.row_index.tolist() == survivors
    assert decoded.rows.column("user_id").to_pylist() == [data["user_id"][r] for r in survivors]
    assert decoded.rows.column("recent_items").to_pylist() == [
        data["recent_items"][r] for r in survivors
    ]


def test_bad_row_in_a_record_of_the_brokers_size():
    data = columns(4_000)
    data["recent_items"] = [list(range(15))] * 4_000
    data["user_id"][3_999] = -1
    value = arrow(data)
    assert 700_000 < len(value) < 1_000_000
    decoded = read(value)
    assert decoded.rows.num_rows == 3_999
    assert decoded.bad[0].rows.tolist() == [3_999]


def test_a_record_without_timestamp_is_not_ahead_of_it():
    data = columns(1)
    data["event_time"] = [NOW + 10 * SCHEMA.max_lead_ms]
    assert read(arrow(data), timestamp=-1).bad == []
    assert whole(read(arrow(data), timestamp=NOW)) is Reason.EVENT_TIME_AHEAD


def test_ids_that_floats_cannot_tell_apart():
    data = columns(4)
    data["user_id"] = [1.0, 1.5, 2.0**53 + 2, float("nan")]
    types = {"user_id": pa.float64()}
    batch = pa.RecordBatch.from_arrays(
        [pa.array(v, types.get(k), from_pandas=False) for k, v in data.items()], names=list(data)
    )
    decoded = read(stream([batch]))
    assert decoded.row_index.tolist() == [0]
    assert decoded.bad[0].reason is Reason.BAD_ID


def test_two_schemas_side_by_side():
    narrow = ImpressionSchema(
        features=(Feature(name="user_id", kind="id"), Feature(name="item_id", kind="id"))
    )
    value = encode(good())
    for _ in range(2):
        assert decode(value, [], -1, narrow).rows.schema == narrow.arrow
        assert read(value).rows.schema == SCHEMA.arrow
