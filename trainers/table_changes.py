"""What one table's rows held at the last hand-down, and how they have changed since.

A small table is copied whole, and costs nothing while it is learnt. Of a large one a row
is noted when it is first looked up for learning, before it changes.

Legend: N rows of a table on this rank, V values looked up, T rows or ids, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from embeddings.ids import ID_SPACE
from embeddings.local_tables import LocalTable
from embeddings.resharding import belongs

UNTOUCHED = -1
Columns = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Changes:
    """Of one table, ascending by key: (spread) id, or row over all ranks."""

    keys_T: torch.Tensor
    change_TD: torch.Tensor
    gone_T: torch.Tensor  # bool: the id has lost its row, and this takes its change back


class Table:
    """What one table's rows held at the last hand-down. Of a row that has changed hands
    since (``moved_N``) nothing is known here any more, but of its owner."""

    def __init__(self, table: LocalTable) -> None:
        self.table = table
        self.moved_N = torch.zeros(len(table.weights_ND), dtype=torch.bool, device=self._device)
        self.rebase()

    @property
    def _device(self) -> torch.device:
        return self.table.weights_ND.device

    @property
    def noted(self) -> int:
        return len(self._touched()) + sum(map(len, self._gone_ids))

    def rebase(self) -> None:
        self._gone_ids: list[torch.Tensor] = []
        self._gone_base: list[torch.Tensor] = []
        self.moved_N.fill_(False)

    def _touched(self) -> torch.Tensor:
        """Rows, ascending, all that may have changed in the same hands among them."""
        raise NotImplementedError

    def _base(self, rows_T: torch.Tensor) -> torch.Tensor:
        """[T, D] what rows in the same hands held at the last hand-down."""
        raise NotImplementedError

    def _note(self, rows_T: torch.Tensor, base_TD: torch.Tensor) -> None:
        """Remember that."""
        raise NotImplementedError

    def moving(self, rows_T: torch.Tensor, owners_T: torch.Tensor) -> None:
        """Rows go from their owners to new ids; they still hold the owners' values."""
        known_T = ~self.moved_N[rows_T] & (owners_T != ID_SPACE)
        if known_T.any():
            self._gone_ids.append(owners_T[known_T])
            self._gone_base.append(self._base(rows_T[known_T]))
        self.moved_N[rows_T] = True

    def _gone(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids that lost their row, ascending, and what they had at the last hand-down."""
        empty = torch.zeros(0, dtype=torch.int64, device=self._device)
        ids_T = torch.cat([empty, *self._gone_ids])
        nothing_TD = self.table.weights_ND.new_empty(0, self.table.weights_ND.shape[1])
        base_TD = torch.cat([nothing_TD, *self._gone_base])
        order_T = torch.argsort(ids_T)
        return ids_T[order_T], base_TD[order_T]

    @torch.no_grad()
    def changes(self) -> Changes:
        rows_T = self._touched()
        keys_T = self.table.keys_of(rows_T)
        change_TD = self.table.weights_ND[rows_T] - self._base(rows_T)
        gone_T = torch.zeros(len(keys_T), dtype=torch.bool, device=self._device)
        if self._gone_ids or self.moved_N.any():
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
        rows_K = self.moved_N.nonzero().squeeze(1)
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
        rows_T = self._touched()
        new_K = self.moved_N.nonzero().squeeze(1)
        gone_ids, gone_base = self._gone()
        state = {
            "keys": self.table.keys_of(rows_T),
            "base": self._base(rows_T),
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
            here_T = (rows_T >= 0) & (rows_T < len(self.moved_N))
            self._note(rows_T[here_T], base_TD[here_T])
            return
        known_T, rows_K = self.table.vocabulary.rows_of(keys_T)
        self._note(rows_K, base_TD[known_T])
        self.moved_N[self.table.vocabulary.rows_of(state["new"])[1]] = True
        # An id for which there is no row any more on another number of ranks is gone, too.
        ids = torch.cat([state["gone_ids"], keys_T[~known_T]])
        base = torch.cat([state["gone_base"], base_TD[~known_T]])
        mine = belongs(ids, rank, world_size)
        self._gone_ids, self._gone_base = [ids[mine]], [base[mine]]


class Copied(Table):
    """A small table: all of it is copied at each hand-down, and learning costs nothing more."""

    def rebase(self) -> None:
        super().rebase()
        self._base_ND = self.table.weights_ND.clone()

    def _touched(self) -> torch.Tensor:
        changed_N = (self.table.weights_ND != self._base_ND).any(1)
        return (changed_N & ~self.moved_N).nonzero().squeeze(1)

    def _base(self, rows_T: torch.Tensor) -> torch.Tensor:
        return self._base_ND[rows_T]

    def _note(self, rows_T: torch.Tensor, base_TD: torch.Tensor) -> None:
        self._base_ND[rows_T] = base_TD


class Noted(Table):
    """A large table: a row is copied when it is first looked up for learning.

    ``place_N`` says where in ``_base_TD`` it is, if anywhere.
    """

    def __init__(self, table: LocalTable) -> None:
        device = table.weights_ND.device
        self.place_N = torch.full((len(table.weights_ND),), UNTOUCHED, device=device)
        super().__init__(table)

    def rebase(self) -> None:
        super().rebase()
        # Not emptied but left to whoever still writes a checkpoint from it.
        self._base_TD = self.table.weights_ND.new_empty(0, self.table.weights_ND.shape[1])
        self._used = 0
        self.place_N.fill_(UNTOUCHED)

    def seen(self, rows_V: torch.Tensor) -> None:
        """Note what rows hold that are about to be learnt for the first time."""
        first_V = self.place_N.index_select(0, rows_V) == UNTOUCHED
        rows_T = torch.unique(rows_V[first_V])
        rows_T = rows_T[~self.moved_N[rows_T]]
        if len(rows_T):
            self._note(rows_T, self.table.weights_ND.index_select(0, rows_T))

    def _touched(self) -> torch.Tensor:
        return ((self.place_N >= 0) & ~self.moved_N).nonzero().squeeze(1)

    def _base(self, rows_T: torch.Tensor) -> torch.Tensor:
        """A row that was not looked up holds what it held."""
        base_TD, place_T = self.table.weights_ND[rows_T], self.place_N[rows_T]
        noted_T = place_T >= 0
        base_TD[noted_T] = self._base_TD[place_T[noted_T]]
        return base_TD

    def _note(self, rows_T: torch.Tensor, base_TD: torch.Tensor) -> None:
        end = self._used + len(rows_T)
        if end > len(self._base_TD):
            grown_TD = base_TD.new_empty(max(end, 2 * len(self._base_TD)), base_TD.shape[1])
            grown_TD[: self._used] = self._base_TD[: self._used]
            self._base_TD = grown_TD
        self._base_TD[self._used : end] = base_TD
        self.place_N[rows_T] = torch.arange(self._used, end, device=self._device)
        self._used = end
