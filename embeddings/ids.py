"""Ids spread over the whole 63-bit space, and back.

Row-wise sharding gives each rank a range of that space, and raw ids are often
small and dense: unspread, all of them would live on rank 0.
"""

from __future__ import annotations

import numpy as np

ID_SPACE = 2**63 - 1
"""Spread ids are below this; managed collision marks a free row with it."""

_MASK = np.uint64(2**63 - 1)
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def spread(ids: np.ndarray) -> np.ndarray:
    """A permutation of [0, 2^63) that leaves no pattern (int64 to int64, any shape).

    The finaliser of splitmix64 (Steele, Lea, Flood 2014; the multipliers are
    Stafford's mix 13) with all arithmetic modulo 2^63. The one id that would
    become 2^63 - 1, the mark of a free row, shares its neighbour's place.
    """
    x = ids.astype(np.uint64) & _MASK
    for multiplier, shift in zip(_MULTIPLIERS, _SHIFTS, strict=False):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(multiplier)
        x &= _MASK
    x ^= x >> np.uint64(_SHIFTS[-1])
    return np.minimum(x, np.uint64(ID_SPACE - 1)).view(np.int64)


def place_in_rows(values: np.ndarray, rows: int) -> None:
    """Make ``values`` (int64, contiguous) rows of a hashed table, where they lie.

    A value that is a row number stays itself, so that a small vocabulary has no
    collisions at all; the rest is spread and taken modulo ``rows``.
    """
    beyond = np.nonzero(values.view(np.uint64) >= rows)
    values[beyond] = spread(values[beyond]) % rows


def gather(spread_ids: np.ndarray) -> np.ndarray:
    """The ids that :func:`spread` was given (int64 to int64, any shape)."""
    x = _unshift(spread_ids.astype(np.uint64), _SHIFTS[-1])
    for multiplier, shift in zip(reversed(_MULTIPLIERS), reversed(_SHIFTS[:-1]), strict=True):
        x *= np.uint64(pow(multiplier, -1, 2**63))
        x = _unshift(x & _MASK, shift)
    return x.view(np.int64)


def _unshift(x: np.ndarray, shift: int) -> np.ndarray:
    """Undo x ^= x >> shift on 63 bits."""
    result = x.copy()
    for _ in range(63 // shift):
        result = x ^ (result >> np.uint64(shift))
    return result
