"""Held-back impressions of one period, as they were given to the model when they came.

Legend: B impressions of a batch, K of what is held, D width and H slots of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.sampled_rows import MOST_HALVINGS, stays
from streaming.impressions import CLICK, ImpressionSchema
from trainers.features import History, ModelBatch
from trainers.history_inputs import padded

_PARTS = 64
"""So many are put together: small ones take more memory than what they hold."""


@dataclass(frozen=True)
class Held:
    """K impressions; nothing of it is ever changed."""

    rows: pa.RecordBatch
    history: tuple[NDArray[np.float32], ...] = ()
    """The tensors of `trainers.features.History` [K, ...]; empty: the model reads none."""

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def user(self, schema: ImpressionSchema) -> NDArray[np.int64]:
        return np.asarray(self.rows.column(schema.user).to_numpy())

    def click(self) -> NDArray[np.int8]:
        return np.asarray(self.rows.column(CLICK).to_numpy())

    def take(self, index: NDArray[np.int64]) -> Held:
        return Held(self.rows.take(pa.array(index)), tuple(part[index] for part in self.history))

    def slice(self, begin: int, end: int) -> Held:
        rows = self.rows.slice(begin, end - begin)
        return Held(rows, tuple(part[begin:end] for part in self.history))


def held_of(
    rows: pa.RecordBatch, made: ModelBatch, chosen_B: NDArray[np.bool_], schema: ImpressionSchema
) -> Held:
    """Copies of those of ``rows``, of which ``made`` was made, that ``chosen_B`` says."""
    index = np.flatnonzero(chosen_B)
    read = rows.select(schema.arrow.names)
    history = () if made.history is None else made.history.tensors()
    return Held(read, tuple(part[: made.rows].numpy() for part in history)).take(index)


def joined(parts: Sequence[Held], schema: ImpressionSchema) -> Held:
    """One after another."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Held(schema.empty())
    history = zip(*(part.history for part in parts), strict=True)
    rows = pa.concat_batches([part.rows for part in parts])
    return Held(rows, tuple(np.concatenate(arrays) for arrays in history))


def with_history(batch: ModelBatch, held: Held) -> ModelBatch:
    """``batch``, made of the rows of ``held``, with the histories that they came with."""
    if not held.history:
        return batch
    size = len(batch.label_B)
    return replace(batch, history=History(*(padded(part, size) for part in held.history)))


@dataclass
class Sample:
    """What is held of a period that is not over.

    Above ``most`` impressions half of the users leave it: whoever stays has all of his, as
    GAUC compares the impressions of one user. What is left is the same in whatever order
    they came.
    """

    schema: ImpressionSchema
    most: int
    halvings: int = 0
    parts: list[Held] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def add(self, held: Held) -> None:
        self.parts.append(self._of_those_left(held))
        if len(self.parts) > _PARTS:
            self.parts = [joined(self.parts, self.schema)]
        while len(self) > self.most and self.halvings < MOST_HALVINGS:
            self.halvings += 1
            self.parts = [self._of_those_left(joined(self.parts, self.schema))]

    def _of_those_left(self, held: Held) -> Held:
        if not self.halvings:
            return held
        return held.take(np.flatnonzero(stays(held.user(self.schema), self.halvings)))
