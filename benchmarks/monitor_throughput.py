"""Predictions a second of processor time that the monitor takes, decoding and measuring included.

    python -m benchmarks monitor_throughput

Records as A-CTR writes them, from memory: what Kafka's client costs beside it is not in the
figure. Each round is the same stream; between them nothing is kept. `sparse` is a level whose
windows are many and all held; `dense` one at 200,000 predictions a second of event time, with
`monitor.max_rows` so low that only a sample of the users is held.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.report import median, publish, spread
from monitoring.ledger import Ledger
from monitoring.monitor_checkpoint import NAME, write_state
from monitoring.monitor_settings import MonitorConfig
from monitoring.sparing import Sparing
from streaming.impressions import Batch, ImpressionSchema, Position, SourceRows
from streaming.predictions import encode_predictions

SCHEMA = ImpressionSchema()
ROUNDS = 5
BATCH = 4_096
BATCHES = 500
PARTITIONS = 4
EVERY_BATCHES = 100  # between two published versions
USERS = 200_000
KINDS = {
    "sparse, 30 a second": (1_000 / 30, MonitorConfig()),
    "dense, 200,000 a second": (1_000 / 200_000, MonitorConfig(max_rows=500_000)),
}
"""Event time between two predictions, ms, and the monitor's settings."""
POLL = 20
"""Batches that one poll brings."""


@dataclass(frozen=True)
class Record:
    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp: int = 0
    key: bytes = b""


def stream(spacing_ms: float, seed: int = 0) -> list[list[tuple[int, Record]]]:
    """Batches, each as (partition, record)."""
    rng = np.random.default_rng(seed)
    return [_batch(number, spacing_ms, rng) for number in range(BATCHES)]


def _batch(number: int, spacing_ms: float, rng: np.random.Generator) -> list[tuple[int, Record]]:
    id_B = np.arange(number * BATCH, (number + 1) * BATCH)
    probability_B = rng.beta(1, 12, BATCH).astype(np.float32)
    columns = {
        "impression_id": id_B,
        "event_time": (1_700_000_000_000 + id_B * spacing_ms).astype(np.int64),
        "click": (rng.random(BATCH) < probability_B).astype(np.int8),
        "user_id": rng.zipf(1.2, BATCH) % USERS,
        "item_id": rng.integers(0, 10_000, BATCH),
    }
    rows = pa.record_batch({name: pa.array(column) for name, column in columns.items()})
    source = SourceRows(
        (id_B % PARTITIONS).astype(np.int32), id_B // 1_024, (id_B % 1_024).astype(np.int32)
    )
    batch = Batch(rows, source, dict.fromkeys(range(PARTITIONS), Position(0)), 0, appended_at=0)
    return [
        (partition, Record(value, headers))
        for partition, value, headers in encode_predictions(
            batch, probability_B, number, "ads", schema=SCHEMA, level="actr"
        )
    ]


def polls(batches: list[list[tuple[int, Record]]]) -> Iterator[dict[int, list[Record]]]:
    for first in range(0, len(batches), POLL):
        found: dict[int, list[Record]] = {}
        for partition, record in (r for batch in batches[first : first + POLL] for r in batch):
            found.setdefault(partition, []).append(record)
        yield found


@dataclass(frozen=True)
class Round:
    rate: float  # predictions a second of processor time
    look: float  # seconds of the last look
    save: float  # seconds of a checkpoint, wall clock
    size: float  # of that, MiB
    sample: float  # share of users held at the end


def one_round(batches: list[list[tuple[int, Record]]], config: MonitorConfig) -> Round:
    ledger = Ledger(config, ["actr"], SCHEMA)
    level, tell = ledger.levels["actr"], Sparing(1.0)
    begin = time.process_time()
    for number, found in enumerate(polls(batches)):
        for partition, records in found.items():
            ledger.predictions("predictions", "actr", partition, records, 0)
        level.quality.advance()
        if (number * POLL) % EVERY_BATCHES == 0:
            level.quality.announce(number * POLL, 0)
        if tell.due:
            with tell.turn():
                ledger.told()
    last = time.process_time()
    (told,) = ledger.told()
    end = time.process_time()
    assert told.predictions == BATCHES * BATCH
    rate = BATCHES * BATCH / (end - begin)
    return Round(rate, end - last, *seconds_and_size_of_a_checkpoint(ledger), told.quality.sample)


def seconds_and_size_of_a_checkpoint(ledger: Ledger) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        write_state(Path(folder), *ledger.state())
        seconds = time.perf_counter() - begin
        return seconds, (Path(folder) / NAME).stat().st_size / 2**20


def main() -> None:
    pa.set_cpu_count(1)
    figures: dict[str, object] = {}
    for name, (spacing_ms, config) in KINDS.items():
        batches = stream(spacing_ms)
        rounds = [one_round(batches, config) for _ in range(ROUNDS)]
        of = {name: [getattr(r, name) for r in rounds] for name in Round.__dataclass_fields__}
        thousands = [rate / 1_000 for rate in of["rate"]]
        figures[f"{name} of event time"] = f"{spread(thousands)} thousand predictions a second"
        figures[f"{name}: the last look at what had changed"] = f"{spread(of['look'])} s"
        figures[f"{name}: a checkpoint"] = f"{spread(of['save'])} s, {spread(of['size'])} MiB"
        figures[f"{name}: share of users held at the end"] = f"{median(of['sample']):g}"
    publish("monitor_throughput", figures)


if __name__ == "__main__":
    main()
