"""Counts ids that were seen not long ago, at a few nanoseconds an id."""

from __future__ import annotations

import numpy as np

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplicative hashing
_EMPTY = np.int64(-1)  # impression ids are never below zero


class RecentIds:
    """A direct-mapped table of ids; a newer id takes the place of an older one.

    Nothing is counted that was not a repeat. With 16 slots for each id of the window,
    at most 6 % of the repeats within the window are missed.

    Args:
        window: how many ids back a repeat should be noticed.
    """

    def __init__(self, window: int) -> None:
        bits = max(4, int(16 * window - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._slots = np.full(1 << bits, _EMPTY)

    def count(self, ids: np.ndarray) -> int:
        """How many of ``ids`` (int64 [n], not below 0) were seen before; remembers them."""
        ordered = np.sort(ids)
        once = ordered[np.flatnonzero(np.diff(ordered, prepend=_EMPTY))]
        slot = ((once.astype(np.uint64) * _MIX) >> self._shift).astype(np.int64)
        before = int((self._slots[slot] == once).sum())
        self._slots[slot] = once
        return before + len(ids) - len(once)
