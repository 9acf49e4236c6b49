"""A letter keeps its bytes, its origin and its reason, whatever the size and however often."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.codec import Bad
from streaming.dead_letters import (
    MAX_RECORD_BYTES,
    Assembly,
    DeadLetter,
    dead_letter,
    format_rows,
    parse_rows,
)
from streaming.validation import Reason


def letter(value=b"bytes", rows=(3, 7, 8, 9), offset=12, headers=()):
    bad = Bad(Reason.BAD_ID, "prix négatif", np.array(rows, np.int32), len(rows), value)
    return dead_letter(bad, "impressions.ad", 2, offset, b"key", headers)


def record_bytes(record):
    value, headers = record
    return len(value or b"") + sum(len(k.encode()) + len(v) for k, v in headers)


def assembled(records):
    assembly = Assembly()
    found = [assembly.add(value, headers, b"key") for value, headers in records]
    return [x for x in found if x is not None], assembly


def test_headers_on_the_wire():
    ((value, headers),) = letter(headers=[("content-type", b"x/y"), ("reason", b"mine")]).records()
    assert value == b"bytes"
    assert dict(headers) == {
        "source-topic": b"impressions.ad",
        "source-partition": b"2",
        "source-offset": b"12",
        "source-rows": b"3,7-9",
        "reason": b"bad-id",
        "detail": "prix négatif".encode(),
        "count": b"4",
        "content-type": b"x/y",
        "original-reason": b"mine",
    }


@pytest.mark.parametrize("value", [b"", b"x", b"\x00\xff" * 10])
def test_round_trip(value):
    original = letter(value, headers=[("content-type", b"x/y"), ("reason", b"mine")])
    (back,), _ = assembled(original.records())
    assert back == original
    assert back.headers == (("content-type", b"x/y"), ("reason", b"mine"))
    assert back.key == b"key"


def test_header_without_content_is_left_out():
    assert letter(headers=[("a", None), ("b", b"")]).headers == (("b", b""),)


@pytest.mark.parametrize("size", [MAX_RECORD_BYTES, 1_048_576, 3_000_001])
def test_large_values_are_split_and_put_together_in_any_order(size):
    value = random.Random(1).randbytes(size)
    records = letter(value).records()
    assert len(records) > 1
    assert all(record_bytes(record) <= MAX_RECORD_BYTES for record in records)
    for order in (records, records[::-1], records[:1] * 2 + records[::-1] + records):
        found, assembly = assembled(order)
        assert [x.value for x in found] == [value]
        assert assembly.incomplete == 0
    _, assembly = assembled(records[1:])
    assert assembly.incomplete == 1


def test_rows_take_room_too():
    scattered = letter(b"v" * MAX_RECORD_BYTES, rows=range(0, 80_000, 2))
    records = scattered.records()
    assert all(record_bytes(record) <= MAX_RECORD_BYTES for record in records)
    assert assembled(records)[0] == [scattered]


def test_the_same_letter_twice_is_one():
    once, other = letter(), letter(offset=13)
    found, _ = assembled(once.records() + other.records() + once.records())
    assert found == [once, other]


def test_mark_is_no_letter_and_names_the_one_sent_back():
    original = letter()
    found, assembly = assembled([original.mark(5), *original.records()])
    assert found == [original]
    assert assembly.resent == {original.identity}
    assert letter(offset=99).identity not in assembly.resent


@pytest.mark.parametrize(
    "change",
    [
        {"reason": b"unheard-of"},
        {"source-offset": b"x"},
        {"part": b"one"},
        {"source-topic": b"\xff"},
        {"source-rows": None},
    ],
)
def test_foreign_records_are_counted(change):
    ((value, headers),) = letter().records()
    kept = {k: v for k, v in {**dict(headers), **change}.items() if v is not None}
    found, assembly = assembled([(value, list(kept.items())), (b"", [])])
    assert found == []
    assert assembly.foreign == 2


@given(st.sets(st.integers(0, 200)))
def test_rows_as_text(rows):
    array = np.array(sorted(rows), np.int32)
    text = format_rows(array)
    np.testing.assert_array_equal(parse_rows(text), array)
    assert parse_rows(text).dtype == np.int32
    if rows == set(range(min(rows, default=0), max(rows, default=0) + 1)) and len(rows) > 1:
        assert text == f"{min(rows)}-{max(rows)}"


def test_letters_are_told_apart_by_reason():
    assert DeadLetter("t", 0, 1, "", Reason.BAD_ID, 1, b"") != DeadLetter(
        "t", 0, 1, "", Reason.NOT_FINITE, 1, b""
    )
