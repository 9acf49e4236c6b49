"""All entities of one kind with their period ends and vectors, as arrays to look up in.

Buckets are ranges of spread ids (`embeddings.history.bucket_of`), so one bucket after
the other gives all entities in the order of their spread ids:

    place      0           1          2            ...  N
    spread id  12          17         90                ID_SPACE, which nobody has
    ends_NK    [Mar, Feb]  [Feb, 0]   [Mar, Jan]        [0, 0]
    vectors    v v         v 0        v v               0 0

A first look finds the place, a second how many of its K period ends lie after the event
time: the S vectors from there on are the answer.

Legend: B ids looked up, N entities, K vectors kept of each, S of them given, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embeddings.history import Window, bucket_starts
from embeddings.ids import ID_SPACE, spread
from embeddings.lookup import PrefixIndex


@dataclass(frozen=True)
class Rows:
    """Entities in the order of their spread ids."""

    spread_N: NDArray[np.int64]
    ends_NK: NDArray[np.int64]
    vectors_NKD: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.spread_N)

    def part(self, start: int, end: int) -> Rows:
        own = slice(start, end)
        return Rows(self.spread_N[own], self.ends_NK[own], self.vectors_NKD[own])


def rows_of(window: Window) -> Rows:
    """The rows of one bucket."""
    spread_N = spread(window.ids_N)
    order = np.argsort(spread_N)
    return Rows(spread_N[order], window.period_ends_NH[order], window.vectors_NHD[order])


def no_rows(kept: int, dim: int) -> Rows:
    return Rows(
        np.empty(0, np.int64), np.empty((0, kept), np.int64), np.empty((0, kept, dim), np.float16)
    )


def _together(parts: list[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.spread_N for part in parts]),
        np.concatenate([part.ends_NK for part in parts]),
        np.concatenate([part.vectors_NKD for part in parts]),
    )


class Found(NamedTuple):
    vectors_BSD: NDArray[np.float32]
    mask_BS: NDArray[np.float32]
    outrun: int  # ids of which an older vector would have been due than any that is kept


class HistoryTable:
    """Never changed once made, so that readers need no lock."""

    def __init__(self, rows: Rows, buckets: int) -> None:
        """``rows`` of all of the ``buckets``, ascending."""
        self._buckets = buckets
        _, self._kept, self._dim = rows.vectors_NKD.shape
        last = Rows(
            np.array([ID_SPACE]),
            np.zeros((1, self._kept), np.int64),
            np.zeros((1, self._kept, self._dim), np.float16),
        )
        padded = _together([rows, last])
        self.rows = padded.part(0, len(rows))
        self._index = PrefixIndex(torch.from_numpy(padded.spread_N))
        self._ends_NK = torch.from_numpy(padded.ends_NK)
        self._vectors_PD = torch.from_numpy(padded.vectors_NKD.reshape(-1, self._dim))

    def __len__(self) -> int:
        return len(self.rows)

    def replaced(self, changes: Mapping[int, Rows]) -> HistoryTable:
        """A table with other rows in some of its buckets."""
        starts = np.searchsorted(self.rows.spread_N, bucket_starts(self._buckets))
        bounds = [*starts.tolist(), len(self)]
        parts = [
            changes[bucket] if bucket in changes else self.rows.part(*bounds[bucket : bucket + 2])
            for bucket in range(self._buckets)
        ]
        return HistoryTable(_together(parts), self._buckets)

    def lookup(
        self, ids_B: NDArray[np.int64], event_time_B: NDArray[np.int64], slots: int
    ) -> Found:
        """The newest S = ``slots`` vectors of each id whose period ended by its event time."""
        at_B = self._places(ids_B)
        ends_BK = self._ends_NK.index_select(0, torch.from_numpy(at_B)).numpy()
        later_B = np.zeros(len(at_B), np.int64)
        for k in range(self._kept):
            later_B += ends_BK[:, k] > event_time_B
        slot_BS = later_B[:, None] + np.arange(slots)
        there_BS = self._is_there(ends_BK, slot_BS)
        # Where there is none: the row of zeros after all others.
        place_BS = np.where(there_BS, at_B[:, None] * self._kept + slot_BS, len(self) * self._kept)
        vectors_VD = self._vectors_PD.index_select(0, torch.from_numpy(place_BS.reshape(-1)))
        outrun_B = (later_B > self._kept - slots) & (ends_BK[:, -1] > 0)
        return Found(
            vectors_VD.float().view(*place_BS.shape, self._dim).numpy(),
            there_BS.astype(np.float32),
            int(np.count_nonzero(outrun_B)),
        )

    def _places(self, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] the place of each id; N for one that nobody has."""
        spread_B = torch.from_numpy(spread(ids_B))
        at_B = self._index.places(spread_B)
        return np.where(self._index.known(spread_B, at_B).numpy(), at_B.numpy(), len(self))

    def _is_there(
        self, ends_BK: NDArray[np.int64], slot_BS: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """[B, S] whether there is a vector in each slot; none in those beyond the last."""
        row_B1 = np.arange(len(ends_BK))[:, None] * self._kept
        ends_BS = ends_BK.reshape(-1).take(row_B1 + np.minimum(slot_BS, self._kept - 1))
        return (ends_BS > 0) & (slot_BS < self._kept)
