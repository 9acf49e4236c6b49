"""Each user's last clicked items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_NEVER = -(1 << 30)


class RecentItems:
    """The last ``size`` clicked items by user seat, none older than ``days`` days."""

    def __init__(self, seats: int, size: int, days: int) -> None:
        self._items = np.zeros((seats, size), np.int64)
        self._day = np.full((seats, size), _NEVER, np.int32)
        self._size = size
        self._days = days

    def add(self, seat: np.ndarray, item: np.ndarray, day: int) -> None:
        """Clicks on ``item`` [N] by the users of ``seat`` [N], in the order of time."""
        if self._size == 0 or len(seat) == 0:
            return
        order = np.argsort(seat, kind="stable")
        seat, item = seat[order], item[order]
        users, first, count = np.unique(seat, return_index=True, return_counts=True)
        # A row shifts left by its user's clicks, which then fill it from the right.
        source = np.arange(self._size) + np.minimum(count, self._size)[:, None]
        source = np.minimum(source, self._size - 1)
        self._items[users] = np.take_along_axis(self._items[users], source, axis=1)
        self._day[users] = np.take_along_axis(self._day[users], source, axis=1)
        from_end = np.repeat(first + count, count) - 1 - np.arange(len(seat))
        kept = from_end < self._size
        column = self._size - 1 - from_end[kept]
        self._items[seat[kept], column] = item[kept]
        self._day[seat[kept], column] = day

    def lists(self, seat: np.ndarray, age: np.ndarray, day: int) -> pa.Array:
        """list<int64> [N], oldest first; of a user who has been here for ``age`` [N] days.

        What a predecessor in the seat clicked is not the user's.
        """
        oldest = day - np.minimum(age, self._days)
        valid = self._day[seat] >= oldest[:, None]
        offsets = np.zeros(len(seat) + 1, np.int32)
        np.cumsum(valid.sum(axis=1), out=offsets[1:])
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(self._items[seat][valid]))
