"""What a learner has changed since its last hand-down, kept up to date as it learns.

A row's values are noted when it is first looked up for learning, before it changes; so
memory grows with the rows touched since the last hand-down, and never beyond a second
copy of the tables. An id that loses its row has its change taken back: whoever adds up
all deltas holds what this learner holds, and no more when the id comes again.

Legend: N rows of a table on this rank, V values looked up, T rows or ids noted, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from embeddings.ids import ID_SPACE
from embeddings.local_tables import LocalTable, local_tables
from embeddings.resharding import belongs
from errors import UserError
from trainers.batch_norm import BatchNorm
from trainers.learner import Learner
from trainers.model import Dense

UNTOUCHED, NEW = -1, -2
Columns = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Changes:
    """Of one table, ascending by key: (spread) id, or row over all ranks."""

    keys_T: torch.Tensor
    change_TD: torch.Tensor
    gone_T: torch.Tensor  # bool: the id has lost its row, and this takes its change back


class DeltaTracker:
    """Follows a learner; make it before the first step and load it with the learner.

    Raises:
        UserError: a table lives behind a GPU's cache, where rows cannot be read one by one.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        tables = local_tables(learner.model)
        for table in tables.values():
            if table.cached:
                raise UserError(
                    f"table '{table.name}' lives in host memory behind the GPU's cache, where "
                    "changes are not tracked; hand down whole models (actr.transfer = "
                    "'reinitialize'), or give the table room on GPUs"
                )
        self._tables = {name: _Touched(table) for name, table in tables.items()}
        self._hooks = _listen(self._tables)
        self._dense = dense_weights(learner)
        self._dense_base = {name: weight.clone() for name, weight in self._dense.items()}

    def changes(self) -> tuple[dict[str, Changes], Columns]:
        """Table and dense weight to what changed since the last hand-down (BatchNorm aside)."""
        tables = {name: touched.changes() for name, touched in self._tables.items()}
        dense = {name: now - self._dense_base[name] for name, now in self._dense.items()}
        return tables, dense

    def rebase(self) -> None:
        """Count changes from here on."""
        for touched in self._tables.values():
            touched.rebase()
        self._dense_base = {name: weight.clone() for name, weight in self._dense.items()}

    def rows_noted(self) -> int:
        return sum(touched.noted for touched in self._tables.values())

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; nothing in it is changed in place afterwards."""
        tables = {name: touched.state() for name, touched in self._tables.items()}
        return {"tables": tables, "dense": self._dense_base}

    def write(self, state: dict[str, Any], directory: Path) -> None:
        """Write this rank's :meth:`state` into a checkpoint."""
        place = self._learner.place
        world = {"world_size": place.world_size}
        torch.save(state | world, _path(directory, place.rank))

    def load(self, directory: Path) -> None:
        """Go on from what all ranks wrote, after the learner was loaded from there.

        Raises:
            UserError: that checkpoint was written without tracking.
        """
        place = self._learner.place
        try:
            first = torch.load(_path(directory, 0), weights_only=True)
        except FileNotFoundError:
            raise UserError(
                f"{directory} was written without noting changes to hand down; move the "
                "checkpoints away to start anew, or hand down whole models"
            ) from None
        others = [_path(directory, r) for r in range(1, first["world_size"])]
        ranks = [first] + [torch.load(path, weights_only=True) for path in others]
        for name, touched in self._tables.items():
            parts = [rank["tables"][name] for rank in ranks if name in rank["tables"]]
            whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            touched.load(whole, place.rank, place.world_size)
        device = self._learner.device
        self._dense_base = {name: base.to(device) for name, base in first["dense"].items()}

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for touched in self._tables.values():
            if touched.table.vocabulary is not None:
                touched.table.vocabulary.moving = None


def dense_weights(learner: Learner) -> Columns:
    """Every dense weight that is handed down, alive: all but BatchNorm's."""
    dense = dense_part(learner)
    norms = {
        f"{name}.{own}"
        for name, module in dense.named_modules()
        if isinstance(module, BatchNorm)
        for own, _ in module.named_parameters(recurse=False)
    }
    return {n: p.detach() for n, p in dense.named_parameters() if n not in norms}


def dense_part(learner: Learner) -> Dense:
    return next(module for module in learner.model.modules() if isinstance(module, Dense))


def _path(directory: Path, rank: int) -> Path:
    return directory / f"touched-{rank:05d}.pt"


def _listen(tables: dict[str, _Touched]) -> list[RemovableHandle]:
    """Have every table told of its look-ups, and of rows that change hands."""
    kernels: dict[nn.Module, dict[str, _Touched]] = {}
    for touched in tables.values():
        of_kernel = kernels.setdefault(touched.table.kernel, {})
        of_kernel |= dict.fromkeys(touched.table.features, touched)
        if touched.table.vocabulary is not None:
            touched.table.vocabulary.moving = touched.moving
    return [k.register_forward_pre_hook(partial(_looked_up, of)) for k, of in kernels.items()]


@torch.no_grad()
def _looked_up(tables: dict[str, _Touched], kernel: nn.Module, arguments: Any) -> None:
    if not kernel.training:
        return
    features: KeyedJaggedTensor = arguments[0]
    ends = features.offset_per_key()
    for name, begin, end in zip(features.keys(), ends[:-1], ends[1:], strict=True):
        tables[name].seen(features.values()[begin:end])


class _Touched:
    """One table's rows as they were: ``place_N`` says where in ``base``, if anywhere."""

    def __init__(self, table: LocalTable) -> None:
        self.table = table
        self.place_N = torch.full((len(table.weights_ND),), UNTOUCHED, device=self._device)
        self.rebase()

    @property
    def _device(self) -> torch.device:
        return self.table.weights_ND.device

    @property
    def noted(self) -> int:
        return self._used + sum(map(len, self._gone_ids))

    def rebase(self) -> None:
        # Not emptied but left to whoever still writes a checkpoint from it.
        self._base_TD = self.table.weights_ND.new_empty(0, self.table.weights_ND.shape[1])
        self._used = 0
        self._gone_ids: list[torch.Tensor] = []
        self._gone_base: list[torch.Tensor] = []
        self.place_N.fill_(UNTOUCHED)

    def seen(self, rows_V: torch.Tensor) -> None:
        """Note what rows hold that are about to be learnt for the first time."""
        first_V = self.place_N.index_select(0, rows_V) == UNTOUCHED
        rows_T = torch.unique(rows_V[first_V])
        if len(rows_T):
            self._note(rows_T, self.table.weights_ND.index_select(0, rows_T))

    def _note(self, rows_T: torch.Tensor, base_TD: torch.Tensor) -> None:
        end = self._used + len(rows_T)
        if end > len(self._base_TD):
            grown_TD = base_TD.new_empty(max(end, 2 * len(self._base_TD)), base_TD.shape[1])
            grown_TD[: self._used] = self._base_TD[: self._used]
            self._base_TD = grown_TD
        self._base_TD[self._used : end] = base_TD
        self.place_N[rows_T] = torch.arange(self._used, end, device=self._device)
        self._used = end

    def moving(self, rows_T: torch.Tensor, owners_T: torch.Tensor) -> None:
        """Rows go from their owners to new ids; they still hold the owners' values."""
        place_T = self.place_N[rows_T]
        noted_T = place_T >= 0
        known_T = noted_T | ((place_T == UNTOUCHED) & (owners_T != ID_SPACE))
        base_TD = self.table.weights_ND[rows_T]
        base_TD[noted_T] = self._base_TD[place_T[noted_T]]
        if known_T.any():
            self._gone_ids.append(owners_T[known_T])
            self._gone_base.append(base_TD[known_T])
        self.place_N[rows_T] = NEW

    def _gone(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids that lost their row, ascending, and what they had at the last hand-down."""
        empty = torch.zeros(0, dtype=torch.int64, device=self._device)
        ids_T = torch.cat([empty, *self._gone_ids])
        base_TD = torch.cat([self._base_TD[:0], *self._gone_base])
        order_T = torch.argsort(ids_T)
        return ids_T[order_T], base_TD[order_T]

    @torch.no_grad()
    def changes(self) -> Changes:
        rows_T = (self.place_N >= 0).nonzero().squeeze(1)
        keys_T = self.table.keys_of(rows_T)
        change_TD = self.table.weights_ND[rows_T] - self._base_TD[self.place_N[rows_T]]
        gone_T = torch.zeros(len(keys_T), dtype=torch.bool, device=self._device)
        if self.table.vocabulary is not None:
            keys, change, gone = self._changes_of_moved()
            keys_T, gone_T = torch.cat([keys_T, keys]), torch.cat([gone_T, gone])
            change_TD = torch.cat([change_TD, change])
        some_T = change_TD.any(1)
        order_T = torch.argsort(keys_T[some_T])
        keys_T, change_TD, gone_T = (
            column[some_T][order_T].cpu() for column in (keys_T, change_TD, gone_T)
        )
        return Changes(keys_T, change_TD, gone_T)

    def _changes_of_moved(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids that got a row, or another one, or lost it."""
        rows_K = (self.place_N == NEW).nonzero().squeeze(1)
        ids_K = self.table.keys_of(rows_K)
        gone_T, gone_base_TD = self._gone()
        base_KD = self.table.first_vectors(ids_K)
        back_K = torch.isin(ids_K, gone_T)
        base_KD[back_K] = gone_base_TD[torch.searchsorted(gone_T, ids_K[back_K])]
        lost_T = ~torch.isin(gone_T, ids_K)
        retracted = self.table.first_vectors(gone_T[lost_T]) - gone_base_TD[lost_T]
        keys = torch.cat([ids_K, gone_T[lost_T]])
        change = torch.cat([self.table.weights_ND[rows_K] - base_KD, retracted])
        gone = torch.cat([torch.zeros_like(back_K), lost_T[lost_T]])
        return keys, change, gone

    def state(self) -> Columns:
        rows_T = (self.place_N >= 0).nonzero().squeeze(1)
        new_K = (self.place_N == NEW).nonzero().squeeze(1)
        gone_ids, gone_base = self._gone()
        state = {
            "keys": self.table.keys_of(rows_T),
            "base": self._base_TD[self.place_N[rows_T]],
            "new": self.table.keys_of(new_K) if self.table.vocabulary is not None else new_K,
            "gone_ids": gone_ids,
            "gone_base": gone_base,
        }
        return {name: column.cpu() for name, column in state.items()}

    def load(self, state: Columns, rank: int, world_size: int) -> None:
        """Take this rank's share of what all ranks noted."""
        self.rebase()
        state = {name: column.to(self._device) for name, column in state.items()}
        keys_T, base_TD = state["keys"], state["base"]
        if self.table.vocabulary is None:
            rows_T = keys_T - self.table.first_row
            here_T = (rows_T >= 0) & (rows_T < len(self.place_N))
            self._note(rows_T[here_T], base_TD[here_T])
            return
        known_T, rows_K = self.table.vocabulary.rows_of(keys_T)
        self._note(rows_K, base_TD[known_T])
        self.place_N[self.table.vocabulary.rows_of(state["new"])[1]] = NEW
        # An id for which there is no row any more on another number of ranks is gone, too.
        ids = torch.cat([state["gone_ids"], keys_T[~known_T]])
        base = torch.cat([state["gone_base"], base_TD[~known_T]])
        mine = belongs(ids, rank, world_size)
        self._gone_ids, self._gone_base = [ids[mine]], [base[mine]]
