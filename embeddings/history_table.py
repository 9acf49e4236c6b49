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
        spread_B = torch.from_numpy(spread(ids_B))
        at_B = self._index.places(spread_B)
        at_B = torch.where(self._index.known(spread_B, at_B), at_B, len(self))
        ends_BK = self._ends_NK.index_select(0, at_B)
        # Arrow's columns are read-only, which PyTorch does not like: this is a copy.
        time_B1 = torch.from_numpy(event_time_B.astype(np.int64)).unsqueeze(1)
        later_B1 = (ends_BK > time_B1).sum(dim=1, keepdim=True)
        slot_BS = later_B1 + torch.arange(slots)
        there_BS = slot_BS < self._kept
        slot_BS.clamp_(max=self._kept - 1)
        there_BS &= ends_BK.gather(1, slot_BS) > 0
        # Where there is none: the row of zeros after all others.
        place_BS = torch.where(
            there_BS, at_B.unsqueeze(1) * self._kept + slot_BS, len(self) * self._kept
        )
        vectors_VD = self._vectors_PD.index_select(0, place_BS.view(-1)).float()
        full_B1 = ends_BK[:, -1:] > 0
        return Found(
            vectors_VD.view(*place_BS.shape, self._dim).numpy(),
            there_BS.float().numpy(),
            int((full_B1 & (later_B1 > self._kept - slots)).sum()),
        )
