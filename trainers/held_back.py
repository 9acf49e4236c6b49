"""Impressions that are predicted and never learnt, so that forgetting can be measured on them.

Legend: B impressions of a batch, padding included.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from streaming.market_random import mix64
from trainers.features import ModelBatch

_SHARES = 1_000_000


def held_back(id_B: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """[B]: which of the impressions, or users, are chosen; decided by the id alone."""
    draw_B = mix64(id_B.astype(np.uint64)) % np.uint64(_SHARES)
    return draw_B < np.uint64(round(share * _SHARES))


def unlearnt(batch: ModelBatch, out_B: NDArray[np.bool_]) -> ModelBatch:
    """``batch`` with weights of 0 where ``out_B``, of its real rows, says so: such impressions
    are predicted, and their clicks never seen."""
    weight_B = batch.weight_B.clone()
    weight_B[: batch.rows][torch.from_numpy(out_B)] = 0.0
    return replace(batch, weight_B=weight_B)


def is_unlearnt(batch: ModelBatch) -> NDArray[np.bool_]:
    """Of the real rows of ``batch``, those that :func:`unlearnt` said so of."""
    return np.asarray((batch.weight_B[: batch.rows] == 0).numpy())
