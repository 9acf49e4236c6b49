"""What measuring forgetting costs a trainer: scoring samples for a version, and holding back.

A-CTR over batches of 4,096 of a large market's ads, with as many periods and rows of a sample as
by default. Rounds learn some batches, each held back of and noted, and score for one version.
Shares are of the time between two checkpoints, as many batches apart as by default.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.history_cost import batches
from benchmarks.report import median, publish, spread
from benchmarks.workload import LEVEL, SCHEMA
from streaming.impressions import EVENT_TIME, Batch, SourceRows
from trainers.forgetting_settings import ForgettingConfig
from trainers.host_memory import keep_freed_memory
from trainers.learner import Learner
from trainers.ranks import Ranks
from trainers.recall import Recall
from trainers.recall_file import write_recall
from trainers.settings import CheckpointConfig, LevelConfig

SHARE = 0.1
ADS_HELD_BACK = 16
"""Batches of a period: more than enough to fill a sample."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=30, help="of 4,096 impressions, a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    learner = Learner(LevelConfig.model_validate(LEVEL), SCHEMA)
    recall = filled(learner)
    rounds = [one_round(learner, recall, options.batches) for _ in range(options.rounds)]
    publish("recall_cost", figures(recall, rounds))


def filled(learner: Learner) -> Recall:
    """With full samples of past periods."""
    config = ForgettingConfig(share=SHARE)
    recall = Recall(learner, SCHEMA, config, Ranks())
    rows = list(itertools.islice(batches(), ADS_HELD_BACK))
    for period in range(config.periods + 1):
        for part in rows:
            take(recall, learner, moved(part, (period + 1) * config.period_ms))
    return recall


def moved(rows: pa.RecordBatch, event_time: int) -> pa.RecordBatch:
    at = rows.schema.get_field_index(EVENT_TIME)
    times = pa.array(np.full(rows.num_rows, event_time))
    return rows.set_column(at, rows.schema.field(at), times)


def take(recall: Recall, learner: Learner, rows: pa.RecordBatch) -> float:
    """Note a batch; the seconds of holding back and noting alone."""
    source = SourceRows(*(np.zeros(rows.num_rows, np.int32) for _ in range(3)))
    batch = Batch(rows, source, {}, watermark=int(rows.column(EVENT_TIME)[0].as_py()))
    if recall.due(batch):
        recall.act(batch)
    made = learner.to_batch(rows)
    started = time.perf_counter()
    recall.learning(rows, recall.hold_back(made, rows))
    return time.perf_counter() - started


def one_round(learner: Learner, recall: Recall, count: int) -> dict[str, float]:
    steps, noted = [], []
    last = (recall.retained.shape[0] + 2) * ForgettingConfig().period_ms
    for rows in itertools.islice(batches(), count):
        noted.append(take(recall, learner, moved(rows, last)))
        made = recall.hold_back(learner.to_batch(rows), rows)
        started = time.perf_counter()
        learner.step(made)
        steps.append(time.perf_counter() - started)
    started = time.perf_counter()
    recall.recalled()
    version = time.perf_counter() - started
    return {"step": median(steps), "noted": median(noted), "version": version}


def figures(recall: Recall, rounds: list[dict[str, float]]) -> dict[str, str]:
    every = CheckpointConfig().every_batches
    scored = recall.held
    with tempfile.TemporaryDirectory() as folder:
        write_recall(recall.state(), Path(folder), 0, SCHEMA)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    milliseconds = {name: spread([1_000 * r[name] for r in rounds]) for name in rounds[0]}
    return {
        "impressions in the samples": f"{scored:,}, {size / 2**20:.1f} MiB in a checkpoint",
        "scoring them for a version": f"{milliseconds['version']} ms",
        "holding back of a batch and noting it": f"{milliseconds['noted']} ms",
        "share of the time, both": spread(
            [r["noted"] / r["step"] + r["version"] / (every * r["step"]) for r in rounds]
        ),
        "learning a batch of 4,096": f"{milliseconds['step']} ms",
    }


if __name__ == "__main__":
    main()
