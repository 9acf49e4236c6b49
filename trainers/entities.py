"""The users or the items of one table on this rank: who may have a vector, and what it is.

Legend: N ids, K of them with a row here, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from embeddings.ids import gather
from embeddings.local_tables import local_tables
from errors import UserError
from trainers.learner import Learner
from trainers.seen import Ids

Vectors = NDArray[np.float16]


@dataclass(frozen=True)
class Entities:
    """Of one kind, in a managed ``table``."""

    learner: Learner
    table: str

    def within_reach(self, ids_N: Ids) -> NDArray[np.bool_]:
        """[N] whether each (spread) id has a row here, or may be given one without being
        seen again."""
        vocabulary = self.learner.vocabularies[self.table]
        known_N, _ = vocabulary.rows_of(self._on_device(ids_N))
        within_N: NDArray[np.bool_] = known_N.cpu().numpy()
        waiting = vocabulary.hidden_state()["history"].get("ids")
        return within_N if waiting is None else within_N | np.isin(ids_N, waiting.numpy())

    def vectors(self, ids_N: Ids) -> tuple[Ids, Vectors]:
        """Raw ids [K] of the (spread) ``ids_N`` that have a row here, and their vectors [K, D].

        Raises:
            UserError: a vector does not fit fp16: the model diverged.
        """
        local = local_tables(self.learner.model)[self.table]
        ids = self._on_device(ids_N)
        known_N, rows_K = self.learner.vocabularies[self.table].rows_of(ids)
        vectors_KD = local.weights_ND[rows_K.to(local.weights_ND.device)].to(torch.float16)
        if not torch.isfinite(vectors_KD).all():
            raise UserError(
                f"vectors in table '{self.table}' are too large to publish: the model diverged; "
                "the last checkpoint is sound, go on from it with smaller learning rates"
            )
        return gather(ids_N[known_N.cpu().numpy()]), vectors_KD.cpu().numpy()

    def _on_device(self, ids_N: Ids) -> torch.Tensor:
        return torch.from_numpy(ids_N).to(self.learner.device)
