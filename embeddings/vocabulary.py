"""The vocabulary of ids that grow without bound: who has a row, and who had to leave.

TorchRec's managed collision (MCH) records the ids of every training batch and, at
every interval, gives rows to new ids, taking them from those used least or longest
ago. This module changes four things about it:

* The history of an interval grows as needed; the stock one is as large as 1.25
  times the first batch suggests, and drops what comes on top without a word.
* An id that has no row yet is an empty bag: it contributes zeros and is not
  learnt. In the stock module all such ids share and train the last row of their
  rank's shard, which makes results depend on the number of ranks.
* A new row's vector is a function of the id alone (:class:`IdInit`), not of a
  random generator: the same on any number of ranks, and after any restart.
* What it keeps outside its state dict can be saved and restored.

Legend: V values in all bags, L bags, N rows of a table, D its width.
"""

from __future__ import annotations

from typing import Any

import torch
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    MCHEvictionPolicy,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor

from embeddings.ids import ID_SPACE

INIT_SCALE = 0.05
"""New vectors are uniform in ±INIT_SCALE."""


def eviction_policy(name: str) -> MCHEvictionPolicy:
    """``lru``: longest unseen leaves; ``lfu``: least seen; ``distance_lfu``: both weighed."""
    policies = {
        "lru": LRU_EvictionPolicy,
        "lfu": LFU_EvictionPolicy,
        "distance_lfu": DistanceLFU_EvictionPolicy,
    }
    return policies[name]()


class ManagedIds(MCHManagedCollisionModule):
    """The vocabulary of one table, or of one rank's share of it."""

    _input_history_buffer_size: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.admitted_total = 0  # ids that were given a row
        self.evicted_total = 0  # ids that lost theirs to another

    def profile(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        if self.training:
            self._reserve(sum(feature.values().numel() for feature in features.values()))
        return super().profile(features)

    def _reserve(self, incoming: int) -> None:
        """Room in the interval's history for ``incoming`` more ids."""
        size = self._input_history_buffer_size
        needed = self._current_history_buffer_offset + incoming
        if size >= needed and size > 0:
            return
        self._resize_history(max(needed, 2 * size, 1_024))

    def _resize_history(self, size: int) -> None:
        used = self._current_history_buffer_offset
        kept = self.history() if self._input_history_buffer_size > 0 else {}
        empty = torch.zeros(size, dtype=torch.int64, device=self.device)
        self._input_history_buffer_size = size
        self._history_accumulator = empty.clone()
        if kept:
            self._history_accumulator[:used] = kept["ids"]
        for name, _, of_history in self._eviction_policy.metadata_info:
            if of_history:
                buffer = empty.clone()
                if kept:
                    buffer[:used] = kept[name]
                self.register_buffer(f"_history_{name}", buffer, persistent=False)
                self._history_metadata[name] = buffer

    def history(self) -> dict[str, torch.Tensor]:
        """What was seen since the last round: ``ids`` and the policy's own columns."""
        used = self._current_history_buffer_offset
        columns = {name: column[:used] for name, column in self._history_metadata.items()}
        return {"ids": self._history_accumulator[:used], **columns}

    @torch.no_grad()
    def _update_and_evict(self, *args: Any, **kwargs: Any) -> None:
        before = self.rows_in_use()
        super()._update_and_evict(*args, **kwargs)
        admitted = int(self._evicted_emb_indices.numel())
        self.admitted_total += admitted
        self.evicted_total += admitted - (self.rows_in_use() - before)

    def rows_in_use(self) -> int:
        """Rows that belong to an id; the last row of a shard never does."""
        return int((self._mch_sorted_raw_ids != ID_SPACE).sum())

    def remap(
        self, features: dict[str, JaggedTensor], *_: Any, **__: Any
    ) -> dict[str, JaggedTensor]:
        return {name: self._rows_of(feature) for name, feature in features.items()}

    def _rows_of(self, feature: JaggedTensor) -> JaggedTensor:
        """Ids to rows; those without a row are left out of their bags."""
        ids_V = feature.values()
        at_V = torch.searchsorted(self._mch_sorted_raw_ids[:-1], ids_V)
        known_V = self._mch_sorted_raw_ids[at_V] == ids_V
        ends_V = torch.nn.functional.pad(known_V.cumsum(0), (1, 0))
        lengths_L = ends_V[feature.offsets()].diff().to(feature.lengths().dtype)
        return JaggedTensor(values=self._mch_remapped_ids_mapping[at_V[known_V]], lengths=lengths_L)

    def ids_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The (spread) id that owns each of this shard's ``rows``; ID_SPACE for a free one."""
        ids_N = torch.empty_like(self._mch_sorted_raw_ids)
        ids_N[self._mch_remapped_ids_mapping - self._output_global_offset] = (
            self._mch_sorted_raw_ids
        )
        return ids_N[rows]

    def newest_ids(self) -> torch.Tensor:
        """The ids that were given a row in the last round, in the order of those rows."""
        return self.ids_of(self._evicted_emb_indices - self._output_global_offset)

    def hidden_state(self) -> dict[str, Any]:
        """Copies of what a state dict leaves out and the next step depends on."""
        history = self.history() if self._input_history_buffer_size > 0 else {}
        return {
            "history": {name: column.to("cpu", copy=True) for name, column in history.items()},
            "iteration": self._current_iter,
            "last_round": self._last_eviction_iter,
            "admitted_total": self.admitted_total,
            "evicted_total": self.evicted_total,
        }

    def load_hidden_state(self, state: dict[str, Any]) -> None:
        self._current_iter = state["iteration"]
        self._last_eviction_iter = state["last_round"]
        self.admitted_total = state["admitted_total"]
        self.evicted_total = state["evicted_total"]
        self._evicted = False
        self._current_history_buffer_offset = 0
        history = state["history"]
        if history:
            used = len(history["ids"])
            self._resize_history(max(used, 1_024))
            self._history_accumulator[:used] = history["ids"]
            for name, buffer in self._history_metadata.items():
                buffer[:used] = history[name]
            self._current_history_buffer_offset = used


class IdInit:
    """First vectors of a managed table's rows: uniform, decided by table and id.

    TorchRec calls this with the whole shard when it is made (nobody has a row yet:
    zeros) and, once ``vocabulary`` is set, with the rows of a round's new ids.
    """

    def __init__(self, salt: int) -> None:
        self.salt = salt
        self.vocabulary: ManagedIds | None = None

    def __call__(self, rows_ND: torch.Tensor) -> torch.Tensor:
        if self.vocabulary is None:
            with torch.no_grad():
                return rows_ND.zero_()
        return id_vectors(self.vocabulary.newest_ids(), rows_ND.shape[1], self.salt)


class RowInit:
    """First vectors of a hashed table: uniform, decided by table and row."""

    def __init__(self, salt: int) -> None:
        self.salt = salt

    @torch.no_grad()
    def __call__(self, rows_ND: torch.Tensor) -> torch.Tensor:
        if rows_ND.numel() == 0:  # the table lives on another rank
            return rows_ND
        numbers_N = torch.arange(rows_ND.shape[0], device=rows_ND.device)
        return rows_ND.copy_(id_vectors(numbers_N, rows_ND.shape[1], self.salt))


def id_vectors(ids_N: torch.Tensor, dim: int, salt: int) -> torch.Tensor:
    """[N, D] float32 uniform in ±INIT_SCALE, a hash of (id, column, salt)."""
    column_D = torch.arange(1, dim + 1, device=ids_N.device) * 0x632BE59BD9B4E019
    x_ND = (ids_N[:, None] ^ salt) * 0x2545F4914F6CDD1D + column_D
    for multiplier in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):
        x_ND = (x_ND ^ ((x_ND >> 32) & 0xFFFFFFFF)) * multiplier
    unit_ND = ((x_ND >> 40) & 0xFFFFFF).to(torch.float32) / 2**24
    return (unit_ND * 2.0 - 1.0) * INIT_SCALE
