"""One of two ranks; started by test_two_ranks.py with a folder and its rank."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from synthetic_stream import SCHEMA
from test_two_ranks import CONFIG, IN_STEP, PROBE, SAVED_AT, SIZE, STREAM, batch_of, vocabulary_of

from trainers.learner import Learner, write_state


def share(index: int, rank: int, learner: Learner):
    """Rank's share of a batch: halves; of the last, all for rank 0 and nothing for rank 1."""
    rows = STREAM[index]
    middle = len(rows) if index == len(STREAM) - 1 else len(rows) // 2
    mine = rows.slice(0, middle) if rank == 0 else rows.slice(middle)
    return batch_of(learner, mine, pad_to=SIZE // 2)


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2
    )
    group = dist.new_group(backend="gloo")
    results = {}
    for name, start in (("fresh", 0), ("resumed", SAVED_AT)):
        learner = Learner(CONFIG, SCHEMA)
        if start:
            learner.load(folder / "one")
            results["before"] = learner.predict(batch_of(learner, PROBE)).tolist()
            results["ids"] = vocabulary_of(learner)
        losses = [learner.step(share(i, rank, learner))[1] for i in range(start, len(STREAM))]
        results[name] = losses
        results[f"{name}_after"] = learner.predict(batch_of(learner, PROBE)).tolist()
        if rank == 0:
            (folder / name).mkdir()
        dist.barrier()
        write_state(learner.snapshot(), folder / name, group)
    assert len(results["fresh"]) == IN_STEP
    (folder / f"results-{rank}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
