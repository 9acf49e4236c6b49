"""From Arrow columns to what TorchRec reads, without a Python loop over rows.

Legend: B impressions, F sparse features, N numeric features, V values in all bags,
H historical embeddings a side (newest first), D their width.

The jagged layout, here with B = 3, a single-valued feature and a list:

    impression      user_id   recent_items
        0              7        [4, 9]
        1              3        []
        2              7        [2]

    keys     = [user_id, recent_items]
    lengths  = [1, 1, 1,   2, 0, 1]         F x B, features first
    values   = [7, 3, 7,   4, 9, 2]         V, in the order of lengths

A value that is missing is an empty bag, and so is everything in a padding row,
whose weight is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from embeddings.ids import place_in_rows, spread
from embeddings.tables import table_specs
from streaming.impressions import CLICK, Feature, ImpressionSchema
from trainers.settings import ModelConfig


@dataclass
class History(Pipelineable):
    """The last H historical embeddings of each impression's user and item."""

    user_BHD: torch.Tensor
    item_BHD: torch.Tensor
    user_mask_BH: torch.Tensor  # 1 where there is one, else 0
    item_mask_BH: torch.Tensor

    @classmethod
    def none(cls, rows: int, slots: int, dim: int, device: torch.device | None = None) -> History:
        """Of users and items of whom nothing is known."""
        vectors_BHD = torch.zeros(rows, slots, dim, device=device)
        mask_BH = torch.zeros(rows, slots, device=device)
        return cls(vectors_BHD, vectors_BHD, mask_BH, mask_BH)

    def to(self, device: torch.device, non_blocking: bool = False) -> History:
        return History(*(t.to(device, non_blocking=non_blocking) for t in self.tensors()))

    def pin_memory(self) -> History:
        return History(*(t.pin_memory() for t in self.tensors()))

    def record_stream(self, stream: torch.Stream) -> None:
        for tensor in self.tensors():
            tensor.record_stream(stream)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.user_BHD, self.item_BHD, self.user_mask_BH, self.item_mask_BH


@dataclass
class ModelBatch(Pipelineable):
    """B impressions as the model reads them; the first ``rows`` are real, the rest padding."""

    kjt: KeyedJaggedTensor  # keys in the schema's order, [F x B]
    numeric_BN: torch.Tensor  # float32
    label_B: torch.Tensor  # float32, 0 or 1
    weight_B: torch.Tensor  # float32, 0 for padding and for what is not to be learnt
    rows: int
    history: History | None = None
    domain_B: torch.Tensor | None = None  # int64, where the model has BatchNorms for each

    @property
    def padded(self) -> bool:
        return self.rows < len(self.label_B)

    @property
    def real_B(self) -> torch.Tensor:
        """float32, 0 for padding alone: what is not learnt belongs to the batch's statistics."""
        place_B = torch.arange(len(self.label_B), device=self.label_B.device)
        return (place_B < self.rows).to(torch.float32)

    def to(self, device: torch.device, non_blocking: bool = False) -> ModelBatch:
        return replace(
            self,
            kjt=self.kjt.to(device, non_blocking=non_blocking),
            numeric_BN=self.numeric_BN.to(device, non_blocking=non_blocking),
            label_B=self.label_B.to(device, non_blocking=non_blocking),
            weight_B=self.weight_B.to(device, non_blocking=non_blocking),
            history=self.history and self.history.to(device, non_blocking),
            domain_B=(
                None
                if self.domain_B is None
                else self.domain_B.to(device, non_blocking=non_blocking)
            ),
        )

    def pin_memory(self) -> ModelBatch:
        return replace(
            self,
            kjt=self.kjt.pin_memory(),
            numeric_BN=self.numeric_BN.pin_memory(),
            label_B=self.label_B.pin_memory(),
            weight_B=self.weight_B.pin_memory(),
            history=self.history and self.history.pin_memory(),
            domain_B=None if self.domain_B is None else self.domain_B.pin_memory(),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        self.kjt.record_stream(stream)
        for tensor in (self.numeric_BN, self.label_B, self.weight_B):
            tensor.record_stream(stream)
        if self.history is not None:
            self.history.record_stream(stream)
        if self.domain_B is not None:
            self.domain_B.record_stream(stream)


class BatchMaker:
    """Makes canonical rows a batch.

    Ids of managed tables are spread over the 63-bit space, which managed collision
    and row-wise sharding rely on; the values of hashed tables become rows of theirs.
    """

    def __init__(self, schema: ImpressionSchema, model: ModelConfig) -> None:
        self._sparse, self._numeric, self._domain = schema.sparse, schema.numeric, model.domain
        specs = table_specs(schema, model)
        hashed = {f: spec.rows for spec in specs if not spec.managed for f in spec.features}
        # Neighbours that are treated alike are treated at once, where they lie.
        self._alike = [
            (table_rows, len(list(features)))
            for table_rows, features in groupby(self._sparse, lambda f: hashed.get(f.name))
        ]

    def __call__(self, rows: pa.RecordBatch, pad_to: int | None = None) -> ModelBatch:
        """``rows`` as a batch of ``pad_to`` (default: as many as there are) impressions.

        Raises:
            ValueError: there are more rows than ``pad_to``.
        """
        count = rows.num_rows
        size = count if pad_to is None else pad_to
        if count > size:
            raise ValueError(f"{count} impressions do not fit a batch of {size}")
        label_B = np.zeros(size, np.float32)
        label_B[:count] = rows.column(CLICK).to_numpy(zero_copy_only=False)
        weight_B = np.ones(size, np.float32)
        weight_B[count:] = 0.0
        return ModelBatch(
            kjt=self._jagged(rows, size),
            numeric_BN=torch.from_numpy(_numeric(rows, self._numeric, size)),
            label_B=torch.from_numpy(label_B),
            weight_B=torch.from_numpy(weight_B),
            rows=count,
            domain_B=_domain(rows, self._domain, size) if self._domain else None,
        )

    def _jagged(self, rows: pa.RecordBatch, size: int) -> KeyedJaggedTensor:
        lengths_FB = np.ones((len(self._sparse), size), np.int32)
        lengths_FB[:, rows.num_rows :] = 0
        bags, ends = [], [0]
        for f, feature in enumerate(self._sparse):
            bag, length = _bags(rows.column(feature.name))
            if length is not None:
                lengths_FB[f, : rows.num_rows] = length
            bags.append(bag)
            ends.append(ends[-1] + len(bag))
        values = np.concatenate(bags)
        first = 0
        for table_rows, features in self._alike:
            part = values[ends[first] : ends[first + features]]
            if table_rows is None:
                part[:] = spread(part)
            else:
                place_in_rows(part, table_rows)
            first += features
        return KeyedJaggedTensor(
            keys=[feature.name for feature in self._sparse],
            values=torch.from_numpy(values),
            lengths=torch.from_numpy(lengths_FB.reshape(-1)),
            stride=size,
        )


def _domain(rows: pa.RecordBatch, name: str, size: int) -> torch.Tensor:
    domain_B = np.zeros(size, np.int64)
    domain_B[: rows.num_rows] = rows.column(name).to_numpy()
    return torch.from_numpy(domain_B)


def _bags(column: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """All values of a column, and how many each row has; None: one each."""
    if pa.types.is_list(column.type):
        length = pc.fill_null(pc.list_value_length(column), 0)
        return column.flatten().to_numpy(zero_copy_only=False), length.to_numpy()
    if column.null_count:
        present = column.is_valid().to_numpy(zero_copy_only=False)
        return column.drop_null().to_numpy(), present
    return column.to_numpy(), None


def _numeric(rows: pa.RecordBatch, features: tuple[Feature, ...], size: int) -> np.ndarray:
    """[B, N] sign(x) ln(1 + |x|): ages and counts have long tails, and crosses multiply them."""
    numeric_BN = np.zeros((size, len(features)), np.float32)
    for n, feature in enumerate(features):
        column = pc.fill_null(rows.column(feature.name), 0.0)
        numeric_BN[: rows.num_rows, n] = column.to_numpy(zero_copy_only=False)
    return np.copysign(np.log1p(np.abs(numeric_BN)), numeric_BN)
