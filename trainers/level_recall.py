"""Held-back impressions in a trainer's process: counted, scored, announced and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from prometheus_client import CollectorRegistry

from monitoring.recall_telemetry import RecallTelemetry
from monitoring.recalled import Recalled
from streaming.impressions import Batch
from trainers.checkpoint import Checkpoint
from trainers.features import ModelBatch
from trainers.learner import Learner
from trainers.levels import Level
from trainers.ranks import Ranks
from trainers.recall import Recall
from trainers.recall_file import read_recall, write_recall


class LevelRecall:
    """One level's `trainers.recall.Recall` on this rank; the loop's `Boundary`."""

    def __init__(
        self,
        level: Level,
        learner: Learner,
        ranks: Ranks,
        registry: CollectorRegistry,
        resumed: Checkpoint | None,
    ) -> None:
        self._schema, self._rank = level.schema, ranks.rank
        self._telemetry = RecallTelemetry(registry, level.name, ranks.rank)
        state = None if resumed is None else read_recall(resumed.path, ranks, level.schema)
        self._recall = Recall(learner, level.schema, level.config.forgetting, ranks, state)
        self._counted = 0

    def hold_back(self, batch: ModelBatch, rows: pa.RecordBatch) -> ModelBatch:
        return self._recall.hold_back(batch, rows)

    def learning(self, rows: pa.RecordBatch, made: ModelBatch) -> None:
        self._recall.learning(rows, made)
        self._telemetry.held_back(self._recall.held_back - self._counted)
        self._counted = self._recall.held_back

    def due(self, batch: Batch) -> bool:
        return self._recall.due(batch)

    def act(self, batch: Batch | None) -> dict[str, int]:
        return self._recall.act(batch)

    def recalled(self) -> Recalled:
        """What the model knows now; call it on all ranks."""
        self._telemetry.held(self._recall.held)
        return self._recall.recalled()

    def writer(self) -> Callable[[Path], None]:
        """Writes what a checkpoint must hold, as it is now."""
        state = self._recall.state()

        def write(directory: Path) -> None:
            write_recall(state, directory, self._rank, self._schema)

        return write


def recall_of(
    level: Level,
    learner: Learner,
    ranks: Ranks,
    registry: CollectorRegistry,
    resumed: Checkpoint | None,
) -> LevelRecall | None:
    """None: the level learns every impression."""
    if not level.config.forgetting.share:
        return None
    return LevelRecall(level, learner, ranks, registry, resumed)
