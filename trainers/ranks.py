"""What the ranks of one trainer tell each other, once a batch.

All ranks learn in lockstep: TorchRec exchanges embeddings in every step, so a
rank whose partitions are silent joins with an empty batch, and all of them stop
and save at the same step. One rank alone needs no process group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """What all ranks do next."""

    learn: bool  # at least one rank has a batch
    stop: bool  # somebody asked, or every rank's log has ended
    may_save: bool  # no rank is still writing the last checkpoint
    boundary: bool = False  # some rank's batch is the first beyond a boundary


class Ranks:
    """Rank ``rank`` of ``size``; two gloo groups, as saving goes on beside learning."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._turns = dist.new_group(backend="gloo") if size > 1 else None
        self.saving = dist.new_group(backend="gloo") if size > 1 else None

    def turn(
        self, *, has_batch: bool, finished: bool, stop: bool, may_save: bool, due: bool = False
    ) -> Turn:
        if self.size == 1:
            return Turn(has_batch, stop or (finished and not has_batch), may_save, due)
        flags = torch.tensor([has_batch, not finished, stop, not may_save, due], dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._turns)
        learn, unfinished, stopping, saving, boundary = (bool(flag) for flag in flags.tolist())
        return Turn(learn, stopping or not (unfinished or learn), not saving, boundary)

    def gather(self, value: T) -> list[T]:
        """``value`` of every rank, in order; used by the saving thread only."""
        return self._gather(value, self.saving)

    def exchange(self, value: T) -> list[T]:
        """As `gather`; used by the loop's thread only."""
        return self._gather(value, self._turns)

    def collect(self, value: T) -> list[T] | None:
        """On rank 0 ``value`` of every rank, in order; used by the loop's thread only."""
        if self.size == 1:
            return [value]
        values: list[T] | None = [value] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, group=self._turns)
        return values

    def _gather(self, value: T, group: dist.ProcessGroup | None) -> list[T]:
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value, group=group)
        return values
