"""Three periods and a half of a learnable stream, and a learner for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from synthetic_stream import impressions
from torch.distributed._shard.sharded_tensor import ShardedTensor

from streaming.impressions import Batch, Position, SourceRows
from trainers.forgetting_settings import ForgettingConfig
from trainers.held_back import held_back
from trainers.learner import Learner
from trainers.settings import LevelConfig, ModelConfig, TableConfig

PERIOD = 1_000_000  # ms
BEGIN = 1_700_000 * PERIOD
CONFIG = ForgettingConfig(share=0.5, period_hours=PERIOD / 3_600_000, periods=3, rows=64)
SIZE, BATCHES = 128, 12
LEARNER = LevelConfig(
    batch_size=SIZE,
    device="cpu",
    model=ModelConfig(eviction_interval=3, ids=TableConfig(rows=128), hidden=(16,)),
)


def changed(rows: pa.RecordBatch, **columns: Any) -> pa.RecordBatch:
    """``rows`` with these columns instead."""
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        field = rows.schema.field(at)
        rows = rows.set_column(at, field, pa.array(values).cast(field.type))
    return rows


def batch_of(rows: pa.RecordBatch, offset: int = 0) -> Batch:
    """As a reader would cut it, the ``offset``-th."""
    source = SourceRows(*(np.zeros(len(rows), np.int32) for _ in range(3)))
    watermark = int(rows.column("event_time").to_numpy().max())
    return Batch(rows, source, {0: Position(offset + 1)}, watermark)


def stream(turned: bool = False) -> list[Batch]:
    """All of it; ``turned``: with the other click wherever one is held back."""
    found = []
    for i in range(BATCHES):
        rows = impressions(i, SIZE, users=40, items=30)
        times = BEGIN + (np.arange(SIZE) + i * SIZE) * (7 * PERIOD // 2) // (SIZE * BATCHES)
        click = rows.column("click").to_numpy()
        if turned:
            out = held_back(rows.column("impression_id").to_numpy(), CONFIG.share)
            click = np.where(out, 1 - click, click)
        found.append(batch_of(changed(rows, event_time=times, click=click), i))
    return found


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """Copies of its state."""
    return {
        name: (t.local_shards()[0].tensor if isinstance(t, ShardedTensor) else t).clone()
        for name, t in learner.state().items()
    }
