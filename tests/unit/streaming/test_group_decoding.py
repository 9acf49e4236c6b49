"""Decoded together or one by one, records hold the same, damaged ones included."""

from collections import namedtuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming import group_decoding
from streaming.codec import decode, encode
from streaming.group_decoding import MAX_GROUP_ROWS, decode_all
from streaming.impressions import Feature, ImpressionSchema

Record = namedtuple("Record", "value headers timestamp")

SCHEMA = ImpressionSchema(
    features=(
        Feature(name="user_id", kind="id"),
        Feature(name="item_id", kind="id"),
        Feature(name="creative_id", kind="id", optional=True),
        Feature(name="recent_items", kind="id", multi=True, table="item_id"),
        Feature(name="age", kind="numeric", optional=True),
    ),
    max_rows=50,
)
NOW = 1_700_000_000_000
LEAD = SCHEMA.max_lead_ms


def rows(count, seed=0, **changes):
    """``count`` good impressions; ``changes`` replace values of the first row."""
    rng = np.random.default_rng(seed)
    columns = {
        "impression_id": rng.integers(0, 2**62, count).tolist(),
        "event_time": (NOW - rng.integers(0, 1_000, count)).tolist(),
        "click": rng.integers(0, 2, count).tolist(),
        "user_id": rng.integers(0, 2**62, count).tolist(),
        "item_id": rng.integers(0, 99, count).tolist(),
        "creative_id": [None if i % 3 else i for i in range(count)],
        "recent_items": [list(range(i % 4)) for i in range(count)],
        "age": [None if i % 5 == 2 else float(i) for i in range(count)],
    }
    for name, value in changes.items():
        columns[name][0] = value
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA.arrow)


def stream(batches, **options):
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def other_schema(batch):
    """Wider than canonical, in another order, with a column that nobody knows."""
    click = batch.column("click").cast(pa.int64())
    names = ["note", "click", *(n for n in batch.schema.names if n != "click")]
    note = pa.array([str(i) for i in range(batch.num_rows)])
    columns = [note, click, *(batch.column(n) for n in names[2:])]
    return pa.RecordBatch.from_arrays(columns, names=names)


def in_a_dictionary(batch):
    at = batch.schema.get_field_index("item_id")
    return batch.set_column(at, "item_id", batch.column("item_id").dictionary_encode())


CHANGES = st.sampled_from(
    [
        {"user_id": -1},
        {"click": 7},
        {"event_time": 5},
        {"event_time": NOW + LEAD},
        {"event_time": NOW + LEAD + 1},
        {"recent_items": [3, None]},
        {"recent_items": [-3]},
        {"recent_items": None},
        {"age": float("inf")},
        {"age": float("nan")},
        {"creative_id": None},
    ]
)
GOOD = st.builds(rows, st.integers(1, 9), st.integers(0, 99))
BATCH = GOOD | st.builds(lambda n, c: rows(n, **c), st.integers(1, 9), CHANGES)
VALUE = st.one_of(
    GOOD.map(encode),
    BATCH.map(encode),
    BATCH.map(lambda batch: stream([batch], compression="lz4")),
    BATCH.map(lambda batch: encode(other_schema(batch))),
    BATCH.map(lambda batch: encode(in_a_dictionary(batch))),
    st.lists(BATCH, min_size=1, max_size=3).map(stream),
    BATCH.map(lambda batch: encode(batch)[:-8]),  # no end of stream, as allowed
    BATCH.map(lambda batch: encode(batch) + b"more"),
    BATCH.map(lambda batch: encode(batch)[:-8] + encode(batch)),
    st.just(encode(rows(51))),
    st.just(encode(rows(0))),
    st.sampled_from([None, b"", b"{", b"\xff\xff\xff\xff", b'{"click": 1}']),
)


@st.composite
def damaged(draw):
    value = bytearray(draw(BATCH.map(encode)))
    for _ in range(draw(st.integers(1, 3))):
        value[draw(st.integers(0, len(value) - 1))] = draw(st.integers(0, 255))
    return bytes(value[: draw(st.integers(0, len(value)) | st.just(len(value)))])


RECORD = st.builds(Record, VALUE | damaged(), st.just([]), st.sampled_from([-1, NOW, NOW + 1]))


def described(decoded):
    """All that a record was found to hold, NaN equal to itself, memory layout aside."""
    assert decoded.rows.schema == SCHEMA.arrow
    decoded.rows.validate(full=True)
    bad = [(b.reason, b.detail, b.rows.tolist(), b.count, b.value) for b in decoded.bad]
    index = decoded.row_index
    assert index.dtype == np.int32
    return (
        repr(decoded.rows.to_pylist()),
        index.tolist(),
        decoded.total_rows,
        bad,
        decoded.unknown,
    )


@settings(max_examples=300, deadline=None)
@given(records=st.lists(RECORD, max_size=12), usual=st.integers(0, 4))
def test_together_and_one_by_one_is_the_same(records, usual):
    records = [Record(encode(rows(3, seed)), [], NOW) for seed in range(usual)] + records
    expected = [described(decode(*record, SCHEMA)) for record in records]
    assert [described(found) for found in decode_all(records, SCHEMA)] == expected


@settings(max_examples=300, deadline=None)
@given(value=damaged())
def test_a_damaged_record_spoils_none_beside_it(value):
    good = [Record(encode(rows(4, seed)), [], NOW) for seed in range(4)]
    records = [*good[:2], Record(value, [], NOW), *good[2:]]
    expected = [described(decode(*record, SCHEMA)) for record in records]
    assert [described(found) for found in decode_all(records, SCHEMA)] == expected


@pytest.mark.parametrize("at", range(3))
def test_each_record_is_measured_by_its_own_timestamp(at):
    ahead = encode(rows(3, event_time=NOW + LEAD + 1))
    records = [Record(ahead, [], timestamp) for timestamp in (NOW + 1, -1, NOW + 2)]
    decode(*records[0], SCHEMA)
    records[at] = Record(ahead, [], NOW)
    counts = [len(found.row_index) for found in decode_all(records, SCHEMA)]
    assert counts == [2 if i == at else 3 for i in range(3)]


@pytest.fixture
def decoded_alone(monkeypatch):
    """Records that were left to `decode`."""
    alone = []

    def note(value, *rest):
        alone.append(value)
        return decode(value, *rest)

    monkeypatch.setattr(group_decoding, "decode", note)
    return alone


def test_usual_records_are_decoded_together(decoded_alone):
    records = [Record(encode(rows(3, seed)), [], NOW) for seed in range(5)]
    decode(*records[0], SCHEMA)  # its schema is known from here on
    assert sum(found.total_rows for found in decode_all(records, SCHEMA)) == 15
    assert decoded_alone == []


def test_a_bad_row_has_only_its_own_group_decoded_again(decoded_alone, monkeypatch):
    monkeypatch.setattr(group_decoding, "MAX_GROUP_ROWS", 6)
    assert MAX_GROUP_ROWS > 6
    values = [encode(rows(3, seed)) for seed in range(5)] + [encode(rows(3, click=7))]
    records = [Record(value, [], NOW) for value in values]
    decode(*records[0], SCHEMA)
    assert [len(found.row_index) for found in decode_all(records, SCHEMA)] == [3] * 5 + [2]
    assert decoded_alone == values[4:]


def test_the_other_byte_order_is_left_to_arrow(decoded_alone):
    """Rows without a schema message are read as in this machine's order."""
    values = [with_other_byte_order(encode(rows(1, seed))) for seed in range(2)]
    assert decode(values[0], [], NOW, SCHEMA).bad  # Arrow turned the bytes round
    list(decode_all([Record(value, [], NOW) for value in values], SCHEMA))
    assert decoded_alone == values


def with_other_byte_order(value):
    """The stream, its schema's field `endianness` pointing at any 1 in the flatbuffer."""
    root = 8 + int.from_bytes(value[8:12], "little")
    schema = field(value, root, 2)
    schema += int.from_bytes(value[schema : schema + 4], "little")
    slot = vtable(value, schema) + 4
    assert value[slot : slot + 2] == b"\0\0"  # little-endian is the default, left out
    one = next(d for d in range(4, 9_999, 2) if value[schema + d : schema + d + 2] == b"\1\0")
    return value[:slot] + one.to_bytes(2, "little") + value[slot + 2 :]


def vtable(value, table):
    return table - int.from_bytes(value[table : table + 4], "little", signed=True)


def field(value, table, slot):
    at = vtable(value, table) + 4 + 2 * slot
    return table + int.from_bytes(value[at : at + 2], "little")
