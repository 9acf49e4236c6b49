"""A batch's historical embeddings, looked up as of each impression's event time.

Legend: B impressions (padding included), H historical embeddings a side, D their width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from streaming.impressions import EVENT_TIME, ImpressionSchema
from trainers.features import History, ModelBatch


class Lookup(Protocol):
    """Where vectors come from: `embeddings.history_store.HistoryStore`."""

    def lookup(
        self, kind: str, ids_B: NDArray[np.int64], event_time_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


def attach(
    batch: ModelBatch,
    rows: pa.RecordBatch,
    store: Lookup,
    schema: ImpressionSchema,
    pad_to: int | None = None,
) -> ModelBatch:
    """``batch``, made of ``rows``, with what ``store`` knows of their users and items.

    Never a vector of a period that ends after an impression's event time. Padding up to
    ``pad_to`` (default: as much as ``batch`` has) has no history.
    """
    size = len(batch.label_B) if pad_to is None else pad_to
    event_time_B = rows.column(EVENT_TIME).to_numpy()
    user_BHD, user_BH = store.lookup("user", rows.column(schema.user).to_numpy(), event_time_B)
    item_BHD, item_BH = store.lookup("item", rows.column(schema.item).to_numpy(), event_time_B)
    history = History(*(padded(part, size) for part in (user_BHD, item_BHD, user_BH, item_BH)))
    return replace(batch, history=history)


def padded(part_B: NDArray[np.float32], size: int) -> torch.Tensor:
    """``part_B`` and zeros, ``size`` rows in all."""
    if len(part_B) == size:
        return torch.from_numpy(part_B)
    padded_B = np.zeros((size, *part_B.shape[1:]), np.float32)
    padded_B[: len(part_B)] = part_B
    return torch.from_numpy(padded_B)


class Coverage:
    """How many impressions had a history, since :meth:`take` was last called."""

    def __init__(self) -> None:
        self._impressions = self._users = self._items = 0

    def add(self, batch: ModelBatch) -> None:
        assert batch.history is not None
        self._impressions += batch.rows
        self._users += int(batch.history.user_mask_BH.any(1).sum())
        self._items += int(batch.history.item_mask_BH.any(1).sum())

    def take(self) -> dict[str, float]:
        """Share of impressions by kind; NaN where there was no impression."""
        total = self._impressions or float("nan")
        shares = {"user": self._users / total, "item": self._items / total}
        self._impressions = self._users = self._items = 0
        return shares
