"""What historical embeddings cost: training throughput, and the time to score 200 candidates.

The same A-CTR over the same batches of 4,096 of a large market's ads, with each way of
combining the periods and without any history. As in the trainer, batches are made ready
beforehand and a batch's history is looked up right before it is learnt. The store knows
a million users and items, those of the batches among them. A request is one user with
200 items: made a batch, looked up and predicted.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from benchmarks.report import median, publish, spread
from benchmarks.workload import BATCH, LEVEL, MARKET, SCHEMA, widened
from config import Config
from embeddings.history import KINDS, Snapshot, bucket_of, empty_window, merge
from embeddings.history import publish as published
from embeddings.history_store import HistoryStore
from streaming.impressions import EVENT_TIME
from streaming.market import Market
from trainers.features import ModelBatch
from trainers.history_inputs import attach
from trainers.host_memory import keep_freed_memory
from trainers.learner import Learner
from trainers.levels import level

VARIANTS = ("no history", "mean", "recency", "attention")
ENTITIES = 1_000_000
CANDIDATES = 200
WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=100, help="of 4,096 impressions, a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100, help="scored, a round")
    options = parser.parse_args()
    keep_freed_memory()
    rows = list(itertools.islice(batches(), options.batches))
    variants = {name: Variant(name, rows) for name in VARIANTS}
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    latencies: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for i in range(options.rounds):
        for name, seconds in alternating(variants, rows, Variant.learn).items():
            rates[name].append(BATCH * len(seconds) / sum(seconds))
        requests = [request(rows[k % len(rows)], k) for k in range(options.requests)]
        for name, seconds in alternating(variants, requests, Variant.score).items():
            latencies[name].append(1_000 * median(seconds))
        print(f"round {i + 1}: " + ", ".join(f"{k} {v[-1]:,.0f}/s" for k, v in rates.items()))
    publish("history_cost", figures(rates, latencies))


def alternating(
    variants: dict[str, Variant],
    rows: list[pa.RecordBatch],
    action: Callable[[Variant, pa.RecordBatch], float],
) -> dict[str, list[float]]:
    """Seconds that ``action`` took, variants taking turns: what else the machine does
    befalls all alike."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for index, batch in enumerate(rows):
        for name, variant in variants.items():
            seconds = action(variant, batch)
            if index >= WARM_UP:
                taken[name].append(seconds)
    return taken


def figures(rates: dict[str, list[float]], latencies: dict[str, list[float]]) -> dict[str, str]:
    found = {}
    for name in VARIANTS:
        share = [a / b for a, b in zip(rates[name], rates[VARIANTS[0]], strict=True)]
        found[f"{name}: learnt"] = (
            f"{median(rates[name]):,.0f} impressions a second, {spread(share)} of no history"
        )
        found[f"{name}: {CANDIDATES} candidates scored"] = f"{spread(latencies[name])} ms"
    return found


def batches() -> Iterator[pa.RecordBatch]:
    """Ads of the market in batches of 4,096."""
    for slot in Market(MARKET).slots():
        rows = widened(slot.ad, slot.index)
        for start in range(0, rows.num_rows - BATCH + 1, BATCH):
            yield rows.slice(start, BATCH)


class Variant:
    """A learner of its own, and the store that it looks its history up in."""

    def __init__(self, name: str, rows: list[pa.RecordBatch]) -> None:
        reads = name != VARIANTS[0]
        self.config = Config.model_validate(
            {
                "impressions": SCHEMA.model_dump(),
                "actr": LEVEL | {"history": reads},
                "history": {"aggregation": name} if reads else {},
            }
        )
        self.learner = Learner(level("actr", self.config).config, SCHEMA)
        self.store = filled(self.config, rows) if reads else None

    def learn(self, rows: pa.RecordBatch) -> float:
        """Seconds of one step, its history's look-up included."""
        batch = self.learner.to_batch(rows)
        started = time.perf_counter()
        self.learner.step(self._attached(batch, rows))
        return time.perf_counter() - started

    def score(self, rows: pa.RecordBatch) -> float:
        """Seconds of one request."""
        started = time.perf_counter()
        self.learner.predict(self._attached(self.learner.to_batch(rows), rows))
        return time.perf_counter() - started

    def _attached(self, batch: ModelBatch, rows: pa.RecordBatch) -> ModelBatch:
        return batch if self.store is None else attach(batch, rows, self.store, SCHEMA)


def request(rows: pa.RecordBatch, number: int) -> pa.RecordBatch:
    """200 impressions of ``rows``, all shown to the user of the first."""
    start = (number * CANDIDATES) % (rows.num_rows - CANDIDATES)
    candidates = rows.slice(start, CANDIDATES)
    at = candidates.schema.get_field_index(SCHEMA.user)
    user = np.full(CANDIDATES, candidates.column(at)[0].as_py())
    return candidates.set_column(at, candidates.schema.field(at), pa.array(user))


def filled(config: Config, rows: list[pa.RecordBatch]) -> HistoryStore:
    """Random vectors of a million users and items, of periods before the impressions."""
    history, dim = config.history, config.tpm.model.dim
    store = HistoryStore.of(history, dim)
    begin = rows[0].column(EVENT_TIME)[0].as_py()
    newest = begin // history.period_ms * history.period_ms
    generator = np.random.default_rng(0)
    for kind, column in zip(KINDS, (SCHEMA.user, SCHEMA.item), strict=True):
        met = np.unique(np.concatenate([batch.column(column).to_numpy() for batch in rows]))
        others = generator.integers(0, 2**62, ENTITIES // 2 - len(met))
        ids_N = np.union1d(met, others)
        bucket_N = bucket_of(ids_N, history.buckets)
        for bucket in range(history.buckets):
            window = empty_window(history.window, dim)
            own_N = ids_N[bucket_N == bucket]
            for age in range(history.window):
                end = newest - age * history.period_ms
                vectors_ND = generator.standard_normal((len(own_N), dim), np.float32)
                vectors_ND = (vectors_ND / 4).astype(np.float16)
                window = merge(window, Snapshot(kind, bucket, end, own_N, vectors_ND))
            store.replace(kind, bucket, published(window, history))
    return store


if __name__ == "__main__":
    main()
