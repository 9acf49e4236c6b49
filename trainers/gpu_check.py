"""`make gpu-check`: does what runs on CPU run on this machine's GPU, and how fast?

Trains the same batches on CPU and on the GPU, in two processes as each has a process
group of its own kind; on the GPU also pipelined, and once more from a checkpoint.
Without a GPU it says so and ends with status 0.

Run as `python -m trainers.gpu_check`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from streaming.impressions import ImpressionSchema
from trainers.learner import Learner, write_state
from trainers.settings import LevelConfig, ModelConfig, TableConfig

SCHEMA = ImpressionSchema()
BATCHES, SIZE = 60, 1_024
SAVED_AT = 30
FAST_SIZE, FAST_BATCHES = 32_768, 60
LOSS_TOLERANCE = 0.02
"""Relative difference of a step's loss; sums on a GPU have another order."""


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments:  # the part that runs on CPU, in a process of its own
        Path(arguments[0]).write_text(json.dumps(_losses(Learner(_config("cpu"), SCHEMA))))
        return 0
    if not torch.cuda.is_available():
        print("gpu-check: skipped, PyTorch sees no GPU on this machine")
        return 0
    print(f"gpu-check: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    checks = [*_compare_with_cpu(), _resume(), _throughput()]
    return 0 if all(checks) else 1


def _config(device: str, size: int = SIZE, rows: int = 4_096) -> LevelConfig:
    # Rows for every id: who leaves a full table could hang on the order of sums.
    model = ModelConfig(eviction_interval=10, ids=TableConfig(rows=rows))
    return LevelConfig.model_validate({"batch_size": size, "device": device, "model": model})


def _losses(learner: Learner, first: int = 0, pipelined: bool = False) -> list[float]:
    batches = (learner.to_batch(impressions(seed, SIZE)) for seed in range(first, BATCHES))
    return [loss for _, loss in learner.steps(batches, pipelined)]


def _compare_with_cpu() -> list[bool]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "losses.json"
        subprocess.run([sys.executable, "-m", "trainers.gpu_check", str(path)], check=True)
        on_cpu = np.array(json.loads(path.read_text()))
    results = []
    for pipelined in (False, True):
        on_gpu = np.array(_losses(Learner(_config("cuda"), SCHEMA), pipelined=pipelined))
        worst = float(np.abs(on_gpu / on_cpu - 1).max())
        name = "pipelined" if pipelined else "step by step"
        results.append(_report(f"{name}: losses within {worst:.2%} of CPU", worst < LOSS_TOLERANCE))
    return results


def _resume() -> bool:
    learner = Learner(_config("cuda"), SCHEMA)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(SAVED_AT):
            learner.step(learner.to_batch(impressions(seed, SIZE)))
        write_state(learner.snapshot(), Path(folder))
        expected = np.array(_losses(learner, SAVED_AT))
        resumed = Learner(_config("cuda"), SCHEMA)
        resumed.load(Path(folder))
    worst = float(np.abs(np.array(_losses(resumed, SAVED_AT)) / expected - 1).max())
    return _report(f"checkpoint: resumed within {worst:.2%}", worst < LOSS_TOLERANCE)


def _throughput() -> bool:
    learner = Learner(_config("cuda", FAST_SIZE, 1_000_000), SCHEMA)
    rows = [impressions(seed, FAST_SIZE, users=900_000) for seed in range(8)]
    batches = [learner.to_batch(batch).pin_memory() for batch in rows]
    results = learner.steps(batches[i % 8] for i in range(FAST_BATCHES))
    for _ in range(10):  # warm up
        next(results)
    torch.cuda.synchronize()
    started = time.perf_counter()
    learnt = sum(len(probability_B) for probability_B, _ in results)
    torch.cuda.synchronize()
    rate = learnt / (time.perf_counter() - started)
    return _report(f"throughput: {rate:,.0f} impressions a second", rate > 0)


def _report(text: str, passed: bool) -> bool:
    print(f"gpu-check: {'ok    ' if passed else 'FAILED'} {text}")
    return passed


def impressions(seed: int, count: int, users: int = 3_000) -> pa.RecordBatch:
    """Impressions of the default schema whose clicks depend on user and item."""
    rng = np.random.default_rng(seed)
    user, item = rng.zipf(1.2, count) % users, rng.zipf(1.2, count) % 1_000
    click = rng.random(count) < 1 / (1 + np.exp(2.0 - 2.0 * np.sin(user * 1.7) * np.sin(item)))
    length = rng.integers(0, 5, count)
    ends = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
    columns = {
        "impression_id": np.arange(count),
        "event_time": np.arange(count),
        "click": click,
        "user_id": user,
        "item_id": item,
        "creative_id": item * 2,
        "segment": user % 7,
        "category": item % 9,
        "position": rng.integers(0, 5, count),
        "hour": rng.integers(0, 24, count),
        "user_age": rng.exponential(30.0, count),
        "item_age": rng.exponential(30.0, count),
    }
    arrays = {name: pa.array(column) for name, column in columns.items()}
    arrays["recent_items"] = pa.ListArray.from_arrays(ends, rng.integers(0, 1_000, ends[-1]))
    return pa.RecordBatch.from_arrays(
        [arrays[field.name].cast(field.type) for field in SCHEMA.arrow], schema=SCHEMA.arrow
    )


if __name__ == "__main__":
    sys.exit(main())
