"""The same model as a plain PyTorch loop, the yardstick: no TorchRec tables, vocabulary or Kafka.

Ids were taken modulo the tables' rows when the batches were made; tables are
`nn.EmbeddingBag(sparse=True)` with `torch.optim.Adagrad`, the dense part is A-CTR's
architecture in stock modules with fused Adam. Embeddings are looked up once a step;
the dense part predicts in eval mode, then learns in train mode.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchrec.modules.crossnet import LowRankCrossNet

from embeddings.tables import table_specs
from streaming.impressions import Batch, ImpressionSchema
from trainers.features import BatchMaker
from trainers.model import inner_product_pairs
from trainers.settings import LevelConfig, ModelConfig


@dataclass(frozen=True)
class PlainBatch:
    rows_V: list[torch.Tensor]  # of each feature, the table's row of every value
    offsets_B: list[torch.Tensor]  # of each feature, where each impression's bag begins
    share_B1: list[torch.Tensor | None]  # 1 / length of a multi-valued feature's bags
    numeric_BN: torch.Tensor
    label_B: torch.Tensor


class PlainModel:
    """Learns batch after batch like `trainers.learner.Learner`, for the same configuration."""

    def __init__(self, config: LevelConfig, schema: ImpressionSchema) -> None:
        self.config, self.schema = config, schema
        specs = table_specs(schema, config.model)
        torch.manual_seed(config.seed)
        tables = {spec.name: _table(spec.rows, spec.dim) for spec in specs}
        self.tables = [tables[feature.table_name] for feature in schema.sparse]
        self.dense = PlainDense(schema, config.model)
        self.sparse_optimizer = torch.optim.Adagrad(
            [table.weight for table in tables.values()], lr=config.optimizer.table_learning_rate
        )
        self.dense_optimizer = torch.optim.Adam(
            self.dense.parameters(), lr=config.optimizer.dense_learning_rate, fused=True
        )

    def prepare(self, batches: Iterable[Batch]) -> list[PlainBatch]:
        return [self._prepare(batch) for batch in batches]

    def _prepare(self, batch: Batch) -> PlainBatch:
        made = BatchMaker(self.schema, self.config.model)(batch.rows)
        bags = [made.kjt[feature.name] for feature in self.schema.sparse]
        return PlainBatch(
            [b.values() % t.num_embeddings for b, t in zip(bags, self.tables, strict=True)],
            [b.offsets()[:-1].to(torch.int64) for b in bags],
            [
                b.lengths().clamp_min(1).reciprocal()[:, None] if f.multi else None
                for b, f in zip(bags, self.schema.sparse, strict=True)
            ],
            made.numeric_BN,
            made.label_B,
        )

    def step(self, batch: PlainBatch) -> tuple[np.ndarray, float]:
        """Predict, then learn; probabilities [B] from before learning, and the loss."""
        self.sparse_optimizer.zero_grad()
        self.dense_optimizer.zero_grad()
        vectors = []
        for table, rows_V, offsets_B, share_B1 in zip(
            self.tables, batch.rows_V, batch.offsets_B, batch.share_B1, strict=True
        ):
            sum_BD = table(rows_V, offsets_B)
            vectors.append(sum_BD if share_B1 is None else sum_BD * share_B1)
        with torch.no_grad():
            self.dense.eval()
            probability_B = torch.sigmoid(self.dense(vectors, batch.numeric_BN))
            self.dense.train()
        logit_B = self.dense(vectors, batch.numeric_BN)
        loss = functional.binary_cross_entropy_with_logits(logit_B, batch.label_B)
        loss.backward()
        self.sparse_optimizer.step()
        self.dense_optimizer.step()
        return probability_B.numpy(), float(loss.detach())


class PlainDense(nn.Module):
    """`trainers.model.Dense` in stock modules."""

    def __init__(self, schema: ImpressionSchema, config: ModelConfig) -> None:
        super().__init__()
        inputs = len(schema.sparse) * config.dim + len(schema.numeric)
        self.cross = LowRankCrossNet(inputs, config.cross_layers, config.cross_rank)
        self.pairs = inner_product_pairs(schema)
        self.mlp = nn.Sequential(
            *itertools.chain.from_iterable(
                (nn.Linear(i, o, bias=False), nn.BatchNorm1d(o, momentum=0.05), nn.ReLU())
                for i, o in itertools.pairwise((inputs, *config.hidden))
            )
        )
        self.output = nn.Linear(config.hidden[-1] + inputs, 1)
        self.product_weight = nn.Parameter(torch.ones(len(self.pairs)))

    def forward(self, vectors: Sequence[torch.Tensor], numeric_BN: torch.Tensor) -> torch.Tensor:
        x_BI = torch.cat([*vectors, numeric_BN], 1)
        product_BP = torch.stack([(vectors[a] * vectors[b]).sum(1) for a, b in self.pairs], 1)
        deep_BU = torch.cat([self.mlp(x_BI), self.cross(x_BI)], 1)
        return self.output(deep_BU).squeeze(1) + product_BP @ self.product_weight


def _table(rows: int, dim: int) -> nn.EmbeddingBag:
    table = nn.EmbeddingBag(rows, dim, mode="sum", sparse=True)
    nn.init.uniform_(table.weight, -0.05, 0.05)
    return table
