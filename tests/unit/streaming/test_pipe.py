"""Objects through a pipe: whole, aligned, and with an end that is noticed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest

from streaming.pipe import open_pipe, receive, send


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = open_pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with suppress(OSError):
            os.close(descriptor)


def through(pipe: tuple[int, int], *messages: object) -> list[object]:
    reading, writing = pipe

    def write() -> None:
        for message in messages:
            send(writing, message)

    thread = threading.Thread(target=write)
    thread.start()
    found = [receive(reading) for _ in messages]
    thread.join(10)
    return found


def test_messages_come_in_order_and_whole(pipe):
    sent = [{"a": 1}, None, [b"x" * 1_000], "later"]
    assert through(pipe, *sent) == sent


def test_arrays_larger_than_the_pipe_come_back_equal_writable_and_aligned(pipe):
    sizes = (0, 1, 7, 2_000_000, 3)
    arrays = [np.arange(size, dtype=np.int64) for size in sizes]
    (found,) = through(pipe, arrays)
    for one, other in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.flags.writeable
        assert one.ctypes.data % 16 == 0


def test_more_arrays_than_one_call_writes(pipe):
    arrays = [np.full(1 + i % 3, i) for i in range(300)]
    (found,) = through(pipe, arrays)
    for one, other in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_slice_of_rows_takes_only_its_own_along(pipe):
    columns = {"n": np.arange(100_000), "lists": [[i, i] for i in range(100_000)]}
    rows = pa.RecordBatch.from_pydict(columns).slice(50_000, 10)
    message = rows.serialize()
    assert message.size < 2_000
    (found,) = through(pipe, message)
    assert pa.ipc.read_record_batch(found, rows.schema).equals(rows)


def test_a_closed_pipe_ends(pipe):
    reading, writing = pipe
    send(writing, 1)
    os.close(writing)
    assert receive(reading) == 1
    with pytest.raises(EOFError):
        receive(reading)


def test_an_end_within_a_message_is_an_end(pipe):
    reading, writing = pipe
    other_reading, other_writing = open_pipe()
    send(other_writing, np.arange(100))
    os.close(other_writing)
    whole = os.read(other_reading, 1 << 20)
    os.close(other_reading)
    os.write(writing, whole[:-8])
    os.close(writing)
    with pytest.raises(EOFError):
        receive(reading)


def test_nobody_who_reads_is_an_error(pipe):
    reading, writing = pipe
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        send(writing, 1)
