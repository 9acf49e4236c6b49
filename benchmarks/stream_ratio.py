"""The trainer on its stream beside the same model on batches in memory, and beside plain PyTorch.

All three learn the same batches, from nothing: *stream* is the whole trainer (Kafka,
decoding, dead-letter checks, predictions published, metrics, checkpoints), *memory* steps
the same learner over batches made ready before, *plain* is `benchmarks.plain_torch`.
Throughput is taken from the first batch learnt to the last; checkpoints come as often as
by default. A machine's speed drifts, so each stream is held against the mean of what the
other two did before it and after it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.plain_torch import PlainModel
from benchmarks.report import median, publish, spread
from benchmarks.workload import BATCH, Log, broker, hold, write_log
from streaming.connection import KafkaConfig
from streaming.impressions import Batch
from streaming.reader_process import ReaderProcess
from trainers.host_memory import keep_freed_memory
from trainers.host_threads import wake_promptly
from trainers.learner import Learner
from trainers.levels import level
from trainers.process import Trainer
from trainers.settings import CheckpointConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=450, help="of 4,096 impressions, a round")
    parser.add_argument("--rounds", type=int, default=5)
    every = CheckpointConfig().every_batches
    parser.add_argument("--checkpoint-every", type=int, default=every, help="batches")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    readers = [ReaderProcess.fork() for _ in range(options.rounds)]  # before there are threads
    keep_freed_memory()  # as `ecdctr train` does; here for all three
    wake_promptly()
    with broker() as (kafka, folder):
        log = write_log(kafka, options.batches * BATCH)
        batches = hold(log, options.batches)
        streams: list[float] = []
        stalls: list[float] = []
        beside = [alone(log, batches)]
        for i, reader in enumerate(readers):
            rate, stall = stream(log, kafka, folder, options.checkpoint_every, reader)
            streams.append(rate)
            stalls.append(stall)
            beside.append(alone(log, batches))
            at = beside[-1]
            print(
                f"round {i + 1}: stream {rate:,.0f}/s; after it memory {at.memory:,.0f}/s, "
                f"plain {at.plain:,.0f}/s",
                flush=True,
            )
    publish("stream_ratio", figures(streams, stalls, beside))


class Alone(NamedTuple):
    """Impressions a second."""

    memory: float
    plain: float


def alone(log: Log, held: list[Batch]) -> Alone:
    return Alone(memory(log, held), plain(log, held))


def figures(streams: list[float], stalls: list[float], beside: list[Alone]) -> dict[str, str]:
    memories, plains = zip(*beside, strict=True)

    def ratios(others: Sequence[float]) -> str:
        around = [(before + after) / 2 for before, after in pairwise(others)]
        return spread([rate / other for rate, other in zip(streams, around, strict=True)])

    rates = {"stream": streams, "memory": memories, "plain": plains}
    return {
        "stream / memory": ratios(memories),
        "stream / plain PyTorch": ratios(plains),
        "memory / plain PyTorch": spread([one.memory / one.plain for one in beside]),
        "share of the time that checkpoints held the loop up": f"{median(stalls):.3f}",
        **{f"{k}, impressions a second": f"{median(v):,.0f}" for k, v in rates.items()},
    }


def memory(log: Log, held: list[Batch]) -> float:
    """Impressions a second of the learner alone, its batches made ready before."""
    learner = Learner(log.config.actr, log.config.impressions)
    ready = [learner.to_batch(batch.rows) for batch in held]
    times = [time.perf_counter() for _ in map(learner.step, ready)]
    return _rate(times, [len(batch) for batch in held])


def plain(log: Log, held: list[Batch]) -> float:
    model = PlainModel(log.config.actr, log.config.impressions)
    ready = model.prepare(held)
    times = [time.perf_counter() for _ in map(model.step, ready)]
    return _rate(times, [len(batch) for batch in held])


def stream(
    log: Log, kafka: KafkaConfig, folder: Path, every: int, reader: ReaderProcess
) -> tuple[float, float]:
    """Impressions a second of the whole trainer, and the share that checkpoints took."""
    config = log.fresh(folder, checkpoint={"every_batches": every, "keep": 1})
    with contextlib.ExitStack() as stack:
        trainer = Trainer(config, level("actr", config), kafka, True, stack, reader)
        watch = _Clock(trainer)
        trainer.run()
    shutil.rmtree(config.run_dir)  # its memory is used again, as a trainer's own next checkpoint's
    return _rate(watch.times, watch.sizes), watch.stalled / (watch.times[-1] - watch.times[0])


class _Clock:
    """Notes when each batch had been learnt, besides the observer that it wraps."""

    def __init__(self, trainer: Trainer) -> None:
        self.times: list[float] = []
        self.sizes: list[int] = []
        self.stalled = 0.0
        learnt, stalled = trainer.observer.learnt, trainer.observer.stalled

        def note(batch: Batch, *rest: object) -> None:
            learnt(batch, *rest)  # type: ignore[arg-type]
            self.times.append(time.perf_counter())
            self.sizes.append(len(batch))

        def note_stall(seconds: float) -> None:
            stalled(seconds)
            self.stalled += seconds

        trainer.observer.learnt = note  # type: ignore[method-assign, assignment]
        trainer.observer.stalled = note_stall  # type: ignore[method-assign]


def _rate(times: list[float], sizes: list[int]) -> float:
    return sum(itertools.islice(sizes, 1, None)) / (times[-1] - times[0])


if __name__ == "__main__":
    main()
