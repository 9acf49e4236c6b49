"""Changes to ids that have no row yet, kept until they get one.

Legend: W ids that wait, K ids asked about, D width of a row.
"""

from __future__ import annotations

import torch

Columns = dict[str, torch.Tensor]


class Waiting:
    """At most ``capacity`` changes, on the CPU; of more, the smallest are dropped."""

    def __init__(self, capacity: int, dim: int) -> None:
        self.capacity, self.dim = capacity, dim
        self.dropped_total = 0
        self.ids_W = torch.zeros(0, dtype=torch.int64)  # ascending
        self.changes_WD = torch.zeros(0, dim)

    def __len__(self) -> int:
        return len(self.ids_W)

    def add(self, ids_K: torch.Tensor, changes_KD: torch.Tensor) -> None:
        """Let distinct ``ids_K`` wait; to one that waits already its change is added."""
        changes_KD = changes_KD.cpu() + self.take(ids_K)
        ids = torch.cat([self.ids_W, ids_K.cpu()])
        changes = torch.cat([self.changes_WD, changes_KD])
        excess = len(ids) - self.capacity
        if excess > 0:
            keep = torch.argsort(changes.norm(dim=1), descending=True, stable=True)
            ids, changes = ids[keep[: self.capacity]], changes[keep[: self.capacity]]
            self.dropped_total += excess
        order = torch.argsort(ids)
        self.ids_W, self.changes_WD = ids[order], changes[order]

    def known(self, ids_K: torch.Tensor) -> torch.Tensor:
        """[K] whether a change to the id waits."""
        return torch.isin(ids_K.cpu(), self.ids_W)

    def take(self, ids_K: torch.Tensor) -> torch.Tensor:
        """[K, D] what waited for ``ids_K``, zeros where nothing did; it waits no more."""
        taken_KD = torch.zeros(len(ids_K), self.dim)
        known_K = self.known(ids_K)
        if known_K.any():
            places = torch.searchsorted(self.ids_W, ids_K.cpu()[known_K])
            taken_KD[known_K] = self.changes_WD[places]
            left = torch.ones(len(self), dtype=torch.bool)
            left[places] = False
            self.ids_W, self.changes_WD = self.ids_W[left], self.changes_WD[left]
        return taken_KD

    def state(self) -> Columns:
        """What waits; the tensors are never changed in place."""
        return {"ids": self.ids_W, "changes": self.changes_WD}

    def load(self, state: Columns) -> None:
        """Go on from :meth:`state`; from nothing when it is empty."""
        self.ids_W = state.get("ids", torch.zeros(0, dtype=torch.int64))
        self.changes_WD = state.get("changes", torch.zeros(0, self.dim))
