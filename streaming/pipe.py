"""Objects through a pipe between two processes.

A message is a pickle with its large buffers (Arrow's, NumPy's) beside it, which are written
from where they lie and used where they were read to:

    number of parts, 8 bytes    the length of each, 8 bytes    the parts, each from a
                                                               multiple of 64 bytes on
"""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

import numpy as np

_ALIGN = 64  # bytes; Arrow's buffers want it
_CAPACITY = 1 << 20  # bytes; the most that Linux gives anyone


def open_pipe() -> tuple[int, int]:
    """Descriptors to read from and to write to, with as much room between them as there is."""
    reading, writing = os.pipe()
    with suppress(OSError, AttributeError):  # elsewhere than on Linux, or out of allowance
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _CAPACITY)
    return reading, writing


def send(descriptor: int, message: object) -> None:
    """Write ``message``; returns when the pipe has taken all of it.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    lengths = np.array([len(parts), *map(len, parts)], np.int64)
    pieces = [lengths.data.cast("B")]
    for part in parts:
        pieces += [part, memoryview(bytes(-len(part) % _ALIGN))]
    _write(descriptor, [piece for piece in pieces if len(piece)])


def receive(descriptor: int) -> object:
    """The next message.

    Raises:
        EOFError: there is none, and there will be none.
    """
    count = int(_read(descriptor, 8).view(np.int64)[0])
    lengths = _read(descriptor, 8 * count).view(np.int64).tolist()
    padded = [length + -length % _ALIGN for length in lengths]
    whole = _read(descriptor, sum(padded)).data
    starts = [0, *accumulate(padded)]
    parts = [whole[start : start + n] for start, n in zip(starts, lengths, strict=False)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _write(descriptor: int, pieces: Sequence[memoryview]) -> None:
    left = list(pieces)
    while left:
        written = os.writev(descriptor, left[:64])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _read(descriptor: int, size: int) -> np.ndarray:
    into = np.empty(size, np.uint8)
    view, got = into.data, 0
    while got < size:
        more = os.readv(descriptor, [view[got:]])
        if not more:
            raise EOFError
        got += more
    return into
