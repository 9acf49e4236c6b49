import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embeddings.history import Snapshot, Window, empty_window
from embeddings.history_records import (
    decode_snapshot,
    decode_window,
    encode_snapshot,
    encode_window,
    parse_key,
    period_end_of,
    record_key,
    snapshot_headers,
    window_headers,
)

DIM = 4
vectors = st.floats(-65504, 65504, width=16)
ids = st.lists(st.integers(0, 2**63 - 1), max_size=6, unique=True).map(sorted)


@st.composite
def windows(draw):
    ids_N = np.array(draw(ids), np.int64)
    slots = draw(st.integers(1, 3))
    ends_NK = draw(hnp.arrays(np.int64, (len(ids_N), slots), elements=st.integers(0, 2**42)))
    vectors_NKD = draw(hnp.arrays(np.float16, (len(ids_N), slots, DIM), elements=vectors))
    return Window(ids_N, -np.sort(-ends_NK, axis=1), vectors_NKD, draw(st.integers(0, 2**42)))


@st.composite
def snapshots(draw):
    ids_N = np.array(draw(ids), np.int64)
    vectors_ND = draw(hnp.arrays(np.float16, (len(ids_N), DIM), elements=vectors))
    return Snapshot(
        "item", draw(st.integers(0, 99)), draw(st.integers(1, 2**42)), ids_N, vectors_ND
    )


def assert_equal(one, other):
    for name, value in vars(one).items():
        found = getattr(other, name)
        np.testing.assert_array_equal(found, value)
        assert np.asarray(found).dtype == np.asarray(value).dtype, name
        assert np.shape(found) == np.shape(value), name


@given(snapshots())
def test_a_snapshot_comes_back_as_it_was(snapshot):
    assert_equal(snapshot, decode_snapshot(encode_snapshot(snapshot)))


@given(windows())
def test_a_window_comes_back_as_it_was(window):
    kind, bucket, found = decode_window(encode_window("user", 17, window))
    assert (kind, bucket) == ("user", 17)
    assert_equal(window, found)


def snapshot_of_two(**changes):
    values = {"kind": "user", "bucket": 3, "period_end": 9, "ids_N": np.array([1, 2])}
    return Snapshot(**(values | {"vectors_ND": np.ones((2, DIM), np.float16)} | changes))


def window_of_two(ends_NK=((9, 8), (9, 0))):
    return Window(np.array([1, 2]), np.array(ends_NK), np.ones((2, 2, DIM), np.float16), 9)


def test_headers_and_keys_name_what_is_inside():
    headers = dict(snapshot_headers(snapshot_of_two()))
    assert headers == {
        "kind": b"user",
        "bucket": b"3",
        "period-end": b"9",
        "dim": b"4",
        "content-type": b"application/vnd.apache.arrow.stream",
    }
    assert dict(window_headers("user", 3, window_of_two())) == headers
    assert period_end_of(list(headers.items())) == 9
    assert period_end_of([]) == period_end_of([("period-end", b"soon")]) == 0
    assert record_key("user", 17) == b"user/17"
    assert parse_key(b"user/17") == ("user", 17)


@pytest.mark.parametrize("key", [None, b"", b"user", b"user/", b"user/-1", b"pet/1", b"\xff/1"])
def test_other_keys_are_refused(key):
    with pytest.raises(ValueError, match="names no kind and bucket"):
        parse_key(key)


def rebuilt(value, change):
    """The record with its columns, metadata, or both changed."""
    with pa.ipc.open_stream(value) as reader:
        table = reader.read_all()
    sink = pa.BufferOutputStream()
    table = change(table)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def with_metadata(**changes):
    def change(table):
        old = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
        return table.replace_schema_metadata(
            old | {k.replace("_", "-"): v for k, v in changes.items()}
        )

    return change


CHANGES = {
    "no metadata": lambda table: table.replace_schema_metadata(None),
    "another kind": with_metadata(kind="creative"),
    "a bucket below zero": with_metadata(bucket="-1"),
    "a period end that is no number": with_metadata(period_end="soon"),
    "no ids": lambda table: table.drop_columns("id"),
    "no vectors": lambda table: table.drop_columns("vector"),
    "ids of another type": lambda table: table.set_column(0, "id", pa.array([1.0, 2.0])),
    "ids out of order": lambda table: table.set_column(0, "id", pa.array([2, 1])),
    "null for an id": lambda table: table.set_column(0, "id", pa.array([1, None])),
    "lists of any length": lambda table: table.set_column(
        table.num_columns - 1, "vector", pa.array([[1.0], []], pa.list_(pa.float16()))
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize(
    ("decode", "value"),
    [
        (decode_snapshot, encode_snapshot(snapshot_of_two())),
        (decode_window, encode_window("user", 3, window_of_two())),
    ],
    ids=["snapshot", "window"],
)
def test_what_is_not_such_a_record_is_refused(decode, value, change):
    decode(rebuilt(value, lambda table: table))
    with pytest.raises(ValueError, match="not a"):
        decode(rebuilt(value, change))


@pytest.mark.parametrize("decode", [decode_snapshot, decode_window])
@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff\xff\xff\xff"])
def test_other_bytes_are_refused(decode, value):
    with pytest.raises(ValueError, match="not a"):
        decode(value)


def test_cut_and_damaged_records_are_refused_or_read_but_nothing_else():
    value = encode_window("user", 3, window_of_two())
    for length in range(0, len(value) - 8, 7):  # the last bytes only mark the end
        with pytest.raises(ValueError, match="not a"):
            decode_window(value[:length])
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(value)
        for at in rng.integers(0, len(value), 3):
            damaged[at] = rng.integers(256)
        try:
            decode_window(bytes(damaged))
        except ValueError:
            continue


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad):
    vectors_ND = np.full((2, DIM), bad, np.float16)
    with pytest.raises(ValueError, match="not finite"):
        decode_snapshot(encode_snapshot(snapshot_of_two(vectors_ND=vectors_ND)))


@pytest.mark.parametrize("ends_NK", [((8, 9), (9, 0)), ((0, 8), (9, 8)), ((9, -1), (9, 8))])
def test_period_ends_out_of_order_are_refused(ends_NK):
    with pytest.raises(ValueError, match="newest first"):
        decode_window(encode_window("user", 3, window_of_two(ends_NK)))


def test_a_bucket_of_nobody_still_names_its_period_and_shape():
    nobody = Window(*list(vars(empty_window(2, DIM)).values())[:3], newest_period_end=9)
    _, _, found = decode_window(encode_window("item", 0, nobody))
    assert (len(found), found.slots, found.dim, found.newest_period_end) == (0, 2, DIM, 9)
