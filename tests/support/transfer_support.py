"""Small models that hand down to each other."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from trainers.delta import DeltaTracker
from trainers.learner import Learner
from trainers.settings import LevelConfig, ModelConfig, TableConfig
from trainers.transfer import Delta, export_delta, read_delta

SIZE = 256


def config(rows: int = 128, seed: int = 0, **model) -> LevelConfig:
    settings = {"eviction_interval": 4, "ids": TableConfig(rows=rows), "hidden": (16,)} | model
    return LevelConfig(batch_size=SIZE, device="cpu", seed=seed, model=ModelConfig(**settings))


def learn(learner: Learner, stream: list[pa.RecordBatch]) -> list[tuple[list[float], float]]:
    results = [learner.step(learner.to_batch(rows)) for rows in stream]
    return [(probability_B.tolist(), loss) for probability_B, loss in results]


def hand_down(learner: Learner, tracker: DeltaTracker, directory: Path) -> Delta:
    directory.mkdir(parents=True)
    export_delta(learner, tracker, directory)
    tracker.rebase()
    return read_delta(directory)


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    return {
        name: (t.local_shards()[0].tensor if isinstance(t, ShardedTensor) else t).clone()
        for name, t in learner.state().items()
    }
