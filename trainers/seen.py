"""Who was seen in a period: exactly, and in no more memory than a vocabulary takes.

An id is worth remembering only while it may have a vector at the period's end: while it
has a row, or waits for the next round to be given one. Who has neither gets no row
without being seen again.

Legend: N ids, L of them in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embeddings.ids import spread

Ids = NDArray[np.int64]

Parts = list[Ids]
"""A set of spread ids, in arrays that are never changed; some may be repeated."""

CROWD = 65_536
"""Fewer ids than this besides the sorted ones are not worth sorting in."""


class Seen:
    """A set of ids, kept spread (see `embeddings.ids`).

    Most are in one sorted array. Others wait in short ones beside it until they are as
    many, so that an id is sorted in as often as the set doubles, not as ids come.
    """

    def __init__(self) -> None:
        self._sorted_N: Ids = np.empty(0, np.int64)
        self._beside: Parts = []
        self._new: list[Ids] = []  # raw

    def add(self, ids_L: Ids) -> None:
        """Raw ids, in any order, repeated or not."""
        self._new.append(ids_L)

    def take_new(self) -> Ids:
        """What was added since the last call and is not sorted in, spread, ascending, each
        once. It is forgotten: `merge` it here, or where it belongs."""
        new_N = np.unique(spread(_together(self._new)))
        self._new = []
        return new_N[~_holds(self._sorted_N, new_N)]

    def merge(self, ids_N: Ids) -> None:
        """Spread ids, in any order, repeated or not."""
        self._beside.append(ids_N)

    @property
    def crowded(self) -> bool:
        """Whether it is time to `keep` only those worth it."""
        return sum(map(len, self._beside)) > max(CROWD, len(self._sorted_N))

    def keep(self, worth: Callable[[Ids], NDArray[np.bool_]]) -> None:
        """Forget those for whom ``worth`` (spread ids [N] to [N]) says no."""
        ids_N = self.ids()
        self._sorted_N = ids_N[worth(ids_N)]

    def ids(self) -> Ids:
        """All of them, spread and ascending, each once."""
        self._sorted_N = np.unique(_together(self.parts()))
        self._beside, self._new = [], []
        return self._sorted_N

    def parts(self) -> Parts:
        """All of them, unsorted: what is cheap to take for a checkpoint."""
        return [self._sorted_N, *self._beside, spread(_together(self._new))]

    def clear(self) -> None:
        self._sorted_N, self._beside, self._new = np.empty(0, np.int64), [], []


def _holds(sorted_N: Ids, ids_L: Ids) -> NDArray[np.bool_]:
    """[L] whether each id is among ``sorted_N``."""
    if not len(sorted_N):
        return np.zeros(len(ids_L), np.bool_)
    at_L = np.searchsorted(sorted_N[:-1], ids_L)
    return np.asarray(sorted_N[at_L] == ids_L)


def _together(parts: Iterable[Ids]) -> Ids:
    return np.concatenate([np.empty(0, np.int64), *parts])


def write_seen(seen: Mapping[str, Parts], directory: Path, rank: int) -> None:
    """Write one rank's sets, by kind, into a checkpoint's directory."""
    ids = {kind: np.unique(_together(parts)) for kind, parts in seen.items()}
    np.savez(directory / f"seen-{rank:05d}.npz", **ids)  # type: ignore[arg-type]


def read_seen(directory: Path) -> dict[str, Ids]:
    """The sets of all ranks that wrote, together; some ids may be repeated."""
    found: dict[str, Parts] = {}
    for path in sorted(directory.glob("seen-*.npz")):
        with np.load(path) as stored:
            for kind in stored.files:
                found.setdefault(kind, []).append(stored[kind])
    return {kind: _together(parts) for kind, parts in found.items()}
