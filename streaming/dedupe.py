"""Counts ids that were seen not long ago, at a few nanoseconds an id."""

from __future__ import annotations

import numpy as np

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplicative hashing
_EMPTY = np.int64(-1)  # impression ids are never below zero
_NEAR_BITS = 6
_NEAR, _NEAR_MASK = np.uint64(_NEAR_BITS), np.uint64((1 << _NEAR_BITS) - 1)


class RecentIds:
    """A direct-mapped table of ids; a newer id takes the place of an older one.

    Nothing is counted that was not a repeat. With 16 slots for each id of the window,
    at most 6 % of the repeats within the window are missed.

    Args:
        window: how many ids back a repeat should be noticed.
    """

    def __init__(self, window: int) -> None:
        bits = max(_NEAR_BITS + 1, int(16 * window - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._slots = np.full(1 << bits, _EMPTY)

    def count(self, ids: np.ndarray) -> int:
        """How many of ``ids`` (int64 [n], not below 0) were seen before; remembers them."""
        ordered = np.sort(ids)
        slot = self._slot(ordered)
        repeated = self._slots[slot] == ordered
        repeated[1:] |= ordered[1:] == ordered[:-1]
        self._slots[slot] = ordered
        return int(np.count_nonzero(repeated))

    def _slot(self, ids: np.ndarray) -> np.ndarray:
        # Ids that were counted up lie together, and memory is read and written by the line.
        x = ids.view(np.uint64)
        far = ((x >> _NEAR) * _MIX) >> self._shift
        return (far ^ (x & _NEAR_MASK)).view(np.int64)
