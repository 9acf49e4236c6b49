"""What the model reads: a batch's tensors, and how they are made of rows.

Legend: B impressions, F sparse features, N numeric features, V values in all bags,
H historical embeddings a side (newest first), D their width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from embeddings.tables import table_specs
from streaming.impressions import ImpressionSchema
from trainers.batch_arrays import ArrayMaker, BatchArrays
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
    """Makes canonical rows a batch; :attr:`arrays` does all of it that needs no PyTorch."""

    def __init__(self, schema: ImpressionSchema, model: ModelConfig) -> None:
        specs = table_specs(schema, model)
        hashed = {f: spec.rows for spec in specs if not spec.managed for f in spec.features}
        self.arrays = ArrayMaker(schema, hashed, model.domain)
        self._keys = self.arrays.keys

    def __call__(self, rows: pa.RecordBatch, pad_to: int | None = None) -> ModelBatch:
        """``rows`` as a batch of ``pad_to`` (default: as many as there are) impressions.

        Raises:
            ValueError: there are more rows than ``pad_to``.
        """
        return self.of(self.arrays(rows, pad_to))

    def of(self, arrays: BatchArrays) -> ModelBatch:
        """``arrays`` as tensors, in the same memory."""
        return ModelBatch(
            kjt=KeyedJaggedTensor(
                keys=self._keys,
                values=torch.from_numpy(arrays.values_V),
                lengths=torch.from_numpy(arrays.lengths_FB(len(self._keys)).reshape(-1)),
                stride=len(arrays.label_B),
            ),
            numeric_BN=torch.from_numpy(arrays.numeric_BN),
            label_B=torch.from_numpy(arrays.label_B),
            weight_B=torch.from_numpy(arrays.weight_B),
            rows=arrays.rows,
            domain_B=None if arrays.domain_B is None else torch.from_numpy(arrays.domain_B),
        )
