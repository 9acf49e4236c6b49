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
* An id that has a row is counted where it stands, at once; only the others go into
  the interval's history, which makes a round a fraction of the work. One look-up
  serves both for this and for finding rows.

Legend: V values in all bags, K of them that have a row, L bags, N rows of a table,
D its width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
from embeddings.lookup import PrefixIndex
from embeddings.waiting import Waiting

INIT_SCALE = 0.05
"""New vectors are uniform in ±INIT_SCALE."""


class _Selects:
    """Who stays, without putting everybody in order as the stock policies do."""

    def _compute_selected_eviction_and_replacement_indices(
        self, pivot: int, eviction_scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of N = ``pivot`` who have a row and then M who want one, the N with the best scores.

        Among equals the first stay. Returns who leaves (of N) and who comes (of M).
        """
        comers = len(eviction_scores) - pivot
        if not comers:
            nobody = torch.zeros(0, dtype=torch.int64, device=eviction_scores.device)
            return nobody, nobody
        worst = torch.kthvalue(eviction_scores, comers).values
        leaves = eviction_scores < worst
        equals = (eviction_scores == worst).nonzero().squeeze(1)
        leaves[equals[len(equals) - (comers - int(leaves.sum())) :]] = True
        return leaves[:pivot].nonzero().squeeze(1), (~leaves[pivot:]).nonzero().squeeze(1)


class _Lru(_Selects, LRU_EvictionPolicy):
    pass


class _Lfu(_Selects, LFU_EvictionPolicy):
    pass


class _DistanceLfu(_Selects, DistanceLFU_EvictionPolicy):
    pass


def eviction_policy(name: str) -> MCHEvictionPolicy:
    """``lru``: longest unseen leaves; ``lfu``: least seen; ``distance_lfu``: both weighed."""
    return {"lru": _Lru, "lfu": _Lfu, "distance_lfu": _DistanceLfu}[name]()


class _Found(NamedTuple):
    """Who of a feature's ids has a row."""

    ids_V: torch.Tensor
    known_V: torch.Tensor  # bool
    slots_K: torch.Tensor  # where they stand in the vocabulary's buffers


class ManagedIds(MCHManagedCollisionModule):
    """The vocabulary of one table, or of one rank's share of it."""

    _input_history_buffer_size: int
    _current_iter_tensor: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.admitted_total = 0  # ids that were given a row
        self.evicted_total = 0  # ids that lost theirs to another
        self._index: PrefixIndex | None = None
        self._found: dict[str, _Found] = {}  # between profile and remap
        self.waiting: Waiting | None = None  # changes handed down to ids without a row
        self.moving: Callable[[torch.Tensor, torch.Tensor], None] | None = None
        """Told of every round, before rows are cleared: (this shard's rows that change hands,
        the ids that owned them, ID_SPACE for a free one)."""

    def profile(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        """Note who was seen; every interval, give rows to those who had none."""
        if not self.training:
            return features
        found = {name: self._find(feature.values()) for name, feature in features.items()}
        self._count(torch.cat([f.slots_K for f in found.values()]))
        new = {name: f.ids_V[~f.known_V] for name, f in found.items()}
        self._reserve(sum(ids.numel() for ids in new.values()))
        super().profile({name: _one_bag(ids) for name, ids in new.items()})
        # A round has moved everybody.
        self._found = {} if self._evicted else found
        return features

    def _count(self, slots_K: torch.Tensor) -> None:
        """What a round of the stock module does for ids that have a row already."""
        counts = self._mch_metadata.get("counts")
        if counts is not None:
            counts.index_add_(0, slots_K, torch.ones_like(slots_K))
        last_seen = self._mch_metadata.get("last_access_iter")
        if last_seen is not None:
            last_seen.index_fill_(0, slots_K, self._now() + 1)

    def _find(self, ids_V: torch.Tensor) -> _Found:
        sorted_ids_N = self._mch_sorted_raw_ids
        if ids_V.device.type == "cpu":
            if self._index is None or not self._index.is_of(sorted_ids_N):
                self._index = PrefixIndex(sorted_ids_N)
            at_V = self._index.places(ids_V)
            known_V = self._index.known(ids_V, at_V)
        else:
            at_V = torch.searchsorted(sorted_ids_N[:-1], ids_V)
            known_V = sorted_ids_N[at_V] == ids_V
        return _Found(ids_V, known_V, at_V.index_select(0, known_V.nonzero().squeeze(1)))

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
        owners_N = self._owners() if self.moving is not None else None
        super()._update_and_evict(*args, **kwargs)
        admitted = int(self._evicted_emb_indices.numel())
        self.admitted_total += admitted
        self.evicted_total += admitted - (self.rows_in_use() - before)
        if self.moving is not None and owners_N is not None:
            rows = self._evicted_emb_indices - self._output_global_offset
            self.moving(rows, owners_N[rows])

    def rows_in_use(self) -> int:
        """Rows that belong to an id; the last row of a shard never does."""
        return int((self._mch_sorted_raw_ids != ID_SPACE).sum())

    def remap(
        self, features: dict[str, JaggedTensor], *_: Any, **__: Any
    ) -> dict[str, JaggedTensor]:
        noted, self._found = self._found, {}
        rows = {}
        for name, feature in features.items():
            found = noted.get(name)
            if found is None or found.ids_V is not feature.values():
                found = self._find(feature.values())
            rows[name] = self._rows_of(feature, found)
        return rows

    def _rows_of(self, feature: JaggedTensor, found: _Found) -> JaggedTensor:
        """Ids to rows; those without a row are left out of their bags."""
        ends_V = torch.nn.functional.pad(found.known_V.cumsum(0), (1, 0))
        lengths_L = ends_V[feature.offsets()].diff().to(feature.lengths().dtype)
        rows_K = self._mch_remapped_ids_mapping.index_select(0, found.slots_K)
        return JaggedTensor(values=rows_K, lengths=lengths_L)

    def ids_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The (spread) id that owns each of this shard's ``rows``; ID_SPACE for a free one."""
        return self._owners()[rows]

    def _owners(self) -> torch.Tensor:
        ids_N = torch.empty_like(self._mch_sorted_raw_ids)
        ids_N[self._mch_remapped_ids_mapping - self._output_global_offset] = (
            self._mch_sorted_raw_ids
        )
        return ids_N

    def rows_of(self, ids_V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of ``ids_V`` have a row [V, bool], and this shard's rows of those [K]."""
        found = self._find(ids_V)
        rows_K = self._mch_remapped_ids_mapping.index_select(0, found.slots_K)
        return found.known_V, rows_K - self._output_global_offset

    @torch.no_grad()
    def admit(self, ids_V: torch.Tensor) -> torch.Tensor:
        """Give free rows to the first of ``ids_V``, which have none; this shard's rows [K].

        K is less than V when there are not enough. Each counts as seen once, now. What
        the rows hold is the caller's business.
        """
        begin = self.rows_in_use()
        count = min(len(ids_V), self._zch_size - 1 - begin)  # the last is never given away
        if count <= 0:
            return ids_V[:0]
        places = slice(begin, begin + count)  # free places stand last
        rows_K = self._mch_remapped_ids_mapping[places] - self._output_global_offset
        self._mch_sorted_raw_ids[places] = ids_V[:count]
        for name, column in self._mch_metadata.items():
            column[places] = 1 if name == "counts" else self._now()
        self._sort_mch_buffers()
        self._index, self._found = None, {}
        self.admitted_total += count
        return rows_K

    def _now(self) -> int:
        begun = self._current_iter >= 0
        return self._current_iter if begun else int(self._current_iter_tensor)

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
            "waiting": self.waiting.state() if self.waiting is not None else {},
        }

    def load_hidden_state(self, state: dict[str, Any]) -> None:
        self._current_iter = state["iteration"]
        self._last_eviction_iter = state["last_round"]
        self.admitted_total = state["admitted_total"]
        self.evicted_total = state["evicted_total"]
        self._evicted = False
        self._index, self._found = None, {}
        if self.waiting is not None:
            self.waiting.load(state.get("waiting", {}))
        self._current_history_buffer_offset = 0
        history = state["history"]
        if history:
            used = len(history["ids"])
            self._resize_history(max(used, 1_024))
            self._history_accumulator[:used] = history["ids"]
            for name, buffer in self._history_metadata.items():
                buffer[:used] = history[name]
            self._current_history_buffer_offset = used


def _one_bag(ids_V: torch.Tensor) -> JaggedTensor:
    return JaggedTensor(values=ids_V, lengths=torch.tensor([ids_V.numel()]))


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
        ids_N = self.vocabulary.newest_ids()
        vectors_ND = self.vectors(ids_N, rows_ND.shape[1])
        if self.vocabulary.waiting:
            vectors_ND += self.vocabulary.waiting.take(ids_N).to(vectors_ND)
        return vectors_ND

    def vectors(self, ids_N: torch.Tensor, dim: int) -> torch.Tensor:
        """[N, D] what ids start from when nothing was handed down to them."""
        return id_vectors(ids_N, dim, self.salt)


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
