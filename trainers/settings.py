"""Configuration of a level's model, optimisers and loop (no torch is imported here)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from settings import Section
from trainers.forgetting_settings import ForgettingConfig


class TableConfig(Section):
    rows: int = Field(20_000, ge=2, le=2**40)
    """Rows of the table; for ids, how many can be known at once."""
    vocabulary: Literal["managed", "hashed"] = "managed"
    """For ids: `managed` admits and evicts (TorchRec's managed collision), `hashed` collides."""
    eviction: Literal["lru", "lfu", "distance_lfu"] = "distance_lfu"
    """Who leaves when a managed table is full: longest unseen, least seen, or both weighed."""


class ModelConfig(Section):
    dim: int = Field(16, ge=4, le=4096, multiple_of=4)
    """Width of every embedding."""
    ids: TableConfig = TableConfig()
    """Tables of id features, unless named in `tables`."""
    categories: TableConfig = TableConfig(rows=1_000, vocabulary="hashed")
    """Tables of categorical features, unless named in `tables`."""
    tables: dict[str, TableConfig] = Field(default_factory=dict)
    """Exceptions by table name."""
    eviction_interval: int = Field(100, ge=1)
    """Batches between two rounds of admission and eviction."""
    id_buckets: int = Field(8, ge=1)
    """Managed tables are cut into this many buckets: a multiple of every rank count to be used."""
    cross_layers: int = Field(2, ge=0, le=100)
    """DCNv2 cross layers (low rank)."""
    cross_rank: int = Field(32, ge=1, le=65_536)
    """Rank of a cross layer."""
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (128, 64)
    """Widths of the MLP's hidden layers."""
    batch_norm: bool = True
    """BatchNorm after every hidden layer."""
    batch_norm_momentum: float = Field(0.05, gt=0, le=1)
    """Weight of the newest batch in the running statistics."""
    domain: str = ""
    """Categorical feature that says from which of `domains` an impression is (0, 1, ...); each
    has BatchNorms of its own, on one rank. Empty: all share them."""
    domains: int = Field(2, ge=2, le=64)
    """How many there are, with `domain`."""
    history_slots: int = Field(0, ge=0)
    """Historical embeddings per side that the model has room for; 0: none. Where the level
    reads `[history]`, that section says so, and the two below."""
    history_dim: int = Field(0, ge=0, le=4096)
    """Width of a historical embedding; 0: `dim`."""
    history_aggregation: Literal["mean", "attention"] = "mean"
    """How several historical embeddings of a side become one, in the model."""

    @property
    def history_width(self) -> int:
        return self.history_dim or self.dim


class OptimizerConfig(Section):
    table_learning_rate: float = Field(0.05, gt=0)
    """Row-wise Adagrad, embedding tables."""
    dense_learning_rate: float = Field(0.001, gt=0)
    """Adam, dense weights."""
    bias_learning_rate: float = Field(0.0, ge=0)
    """Adam, the output's bias alone, which says how often is clicked at all; 0: as the other
    dense weights."""


class CheckpointConfig(Section):
    every_batches: int = Field(200, ge=1)
    """Batches between two checkpoints."""
    keep: int = Field(3, ge=1)
    """How many checkpoints are kept."""


class LevelConfig(Section):
    batch_size: int = Field(1_024, ge=2)
    """Impressions in a batch, over all ranks."""
    history: bool = False
    """Read the historical embeddings that `[history]` describes."""
    align: bool = False
    """Predict no batch before what other levels owe it by its event times is there, so that
    a run beside them gives what a replay gives. Otherwise go on with what there is."""
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    forgetting: ForgettingConfig = ForgettingConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: cuda when there is one."""
    threads: int = Field(0, ge=0, le=1_024)
    """Threads of one rank's arithmetic on a CPU; 0: PyTorch's own choice. One is best where
    other processes want the cores too: threads that wait for each other then wait long."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of every initialisation."""
    metrics_window: int = Field(50_000, ge=1_000, le=100_000_000)
    """Impressions in the window over which the trainer reports GAUC and loss."""

    @model_validator(mode="after")
    def _buckets_divide(self) -> LevelConfig:
        for name, table in {"ids": self.model.ids, **self.model.tables}.items():
            if table.vocabulary == "managed" and table.rows % self.model.id_buckets:
                raise ValueError(
                    f"{name}.rows = {table.rows} is not a multiple of "
                    f"id_buckets = {self.model.id_buckets}"
                )
        return self
