"""Historical embeddings looked up: ids a second on one thread, and what goes with it.

Every batch asks for other ids, drawn evenly over all entities and one in ten unknown, so
that the processor's caches help as little as they can.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import publish, spread
from embeddings.history import Window, bucket_of
from embeddings.history_settings import HistoryConfig
from embeddings.history_store import HistoryStore

ENTITIES = 1_000_000
DIM = 16
ROUNDS = 7
BATCHES = {200: 500, 1_024: 200, 8_192: 50}
"""Ids in a look-up, and look-ups in a round; 200 candidates are what a request scores."""
PERIOD = HistoryConfig().period_ms


def filled(config: HistoryConfig, seed: int = 0) -> tuple[HistoryStore, np.ndarray]:
    """A store of ENTITIES users, some without their oldest periods; and their ids."""
    rng = np.random.default_rng(seed)
    ids_N = np.unique(rng.integers(0, 2**62, ENTITIES))
    ends_NK = np.tile(np.arange(config.kept, 0, -1) * PERIOD, (len(ids_N), 1))
    ends_NK[rng.random(ends_NK.shape) < 0.2] = 0
    ends_NK = -np.sort(-ends_NK, axis=1)
    vectors_NKD = rng.standard_normal((*ends_NK.shape, DIM), np.float32).astype(np.float16)
    bucket_N = bucket_of(ids_N, config.buckets)
    store = HistoryStore.of(config, DIM)
    windows = {
        ("user", b): Window(ids_N[own], ends_NK[own], vectors_NKD[own], config.kept * PERIOD)
        for b in range(config.buckets)
        for own in [bucket_N == b]
    }
    store.apply(windows)
    return store, ids_N


def look_up(store: HistoryStore, ids_N: np.ndarray, batch: int, count: int) -> list[float]:
    """Million ids a second, of each round."""
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(ROUNDS):
        ids_CB = rng.choice(ids_N, (count, batch))
        ids_CB[:, ::10] += 1
        time_CB = rng.integers(PERIOD, (store.kept + 1) * PERIOD, (count, batch))
        started = time.perf_counter()
        for ids_B, time_B in zip(ids_CB, time_CB, strict=True):
            store.lookup("user", ids_B, time_B)
        rates.append(count * batch / (time.perf_counter() - started) / 1e6)
    return rates


def seconds_of_copies(store: HistoryStore, config: HistoryConfig) -> tuple[float, float]:
    """Seconds to save and to load the local copy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.npz"
        started = time.perf_counter()
        store.save(path)
        saved = time.perf_counter()
        if not HistoryStore.of(config, DIM).load(path):
            raise RuntimeError("the copy was not read")
        return saved - started, time.perf_counter() - saved


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    for config in (HistoryConfig(), HistoryConfig(aggregation="attention")):
        store, ids_N = filled(config)
        what = f"{config.aggregation}, {config.slots} of {config.kept} vectors of width {DIM}"
        for batch, count in BATCHES.items():
            rates = look_up(store, ids_N, batch, count)
            figures[f"{what}, {batch:,} ids at once"] = f"{spread(rates)} M ids a second"
        save, load = seconds_of_copies(store, config)
        figures[f"{what}: local copy"] = f"{save:.2f} s to save, {load:.2f} s to load"
    publish("history_lookup", figures)


if __name__ == "__main__":
    main()
