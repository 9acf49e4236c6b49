"""A managed table's vocabulary and weights, dealt out to another number of ranks.

Row-wise sharding sends an id to a rank by the range of the id space that it falls
in, while a rank gives its rows away in the order of arrival. So when the number of
ranks changes, a row must move to wherever its id now lives; cutting the table's rows
into new ranges, as checkpoints are usually resharded, would part ids from weights.

Legend: N rows of the table, M rows of a rank, K ids that fall to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from embeddings.ids import ID_SPACE

IDS = "_mch_sorted_raw_ids"
ROWS = "_mch_remapped_ids_mapping"


@dataclass(frozen=True)
class Share:
    """What one rank takes over of a table."""

    ids_K: torch.Tensor  # ascending; each gets the row of its position
    slots_K: torch.Tensor  # where each stood in the old vocabulary's buffers
    rows_K: torch.Tensor  # its old row, over all ranks
    first_row: int  # of this rank's rows, counted over all ranks
    left_out: int  # ids for which this rank has no row


def belongs(ids: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """Mask of the (spread) ids that row-wise sharding sends to ``rank``."""
    block = -(-ID_SPACE // world_size)
    return (ids // block == rank) & (ids != ID_SPACE)


def take_share(
    ids_N: torch.Tensor,
    rows_N: torch.Tensor,
    score_N: torch.Tensor,
    rank: int,
    world_size: int,
) -> Share:
    """The ids, with their old rows, that ``rank`` of ``world_size`` takes over.

    A rank has N / world_size rows and its last one is never given away. When more
    ids fall to it, those with the least ``score_N`` are left out.
    """
    size = len(ids_N) // world_size
    capacity = size - 1
    slots = belongs(ids_N, rank, world_size).nonzero().squeeze(1)
    left_out = max(0, len(slots) - capacity)
    if left_out:
        best = torch.argsort(score_N[slots], descending=True, stable=True)
        slots = slots[best[:capacity]]
    slots = slots[torch.argsort(ids_N[slots])]
    return Share(ids_N[slots], slots, rows_N[slots], rank * size, left_out)


def place(share: Share, column_N: torch.Tensor, size: int, name: str) -> torch.Tensor:
    """A vocabulary buffer of this rank's ``size`` rows, from the old one over all rows."""
    if name == ROWS:
        return torch.arange(share.first_row, share.first_row + size)
    placed_M = torch.full((size,), ID_SPACE if name == IDS else 0, dtype=column_N.dtype)
    placed_M[: len(share.ids_K)] = column_N[share.slots_K]
    return placed_M


def gather_history(
    histories: list[dict[str, torch.Tensor]], rank: int, world_size: int
) -> dict[str, torch.Tensor]:
    """What all ranks kept by ``ids``, in columns, as far as it now falls to ``rank``."""
    seen = [history for history in histories if history]
    if not seen:
        return {}
    together = {name: torch.cat([history[name] for history in seen]) for name in seen[0]}
    mine = belongs(together["ids"], rank, world_size)
    return {name: column[mine] for name, column in together.items()}
