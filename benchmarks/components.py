"""The parts of the path, each alone: decoding, reading, looking ids up, measuring."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.report import median, publish
from benchmarks.workload import BATCH, broker, hold, write_log
from monitoring.metrics import gauc
from streaming.codec import CONTENT_TYPE, CONTENT_TYPE_ARROW, decode, encode
from streaming.impressions import ImpressionSchema
from streaming.market import Market
from streaming.market_config import MarketConfig

ROUNDS = 5


def rate(count: int, action: Callable[[], object]) -> float:
    """Things a second, median of several."""
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        action()
        rates.append(count / (time.perf_counter() - started))
    return median(rates)


def decoding() -> float:
    rows = next(iter(Market(MarketConfig()).days(0, 1))).ad.slice(0, 256)
    value, schema = encode(rows), ImpressionSchema()
    headers = [(CONTENT_TYPE, CONTENT_TYPE_ARROW.encode())]

    def run() -> None:
        for _ in range(1_000):
            decode(value, headers, -1, schema)

    return rate(256_000, run)


def reading(impressions: int = 1_000_000) -> float:
    with broker() as (kafka, _):
        log = write_log(kafka, impressions)
        count = log.impressions // BATCH
        return rate(count * BATCH, lambda: hold(log, count))


def measuring(impressions: int = 1_000_000) -> float:
    rng = np.random.default_rng(0)
    user = rng.integers(0, impressions // 20, impressions)
    click = (rng.random(impressions) < 0.1).astype(np.int8)
    probability = rng.random(impressions).astype(np.float32)
    return rate(impressions, lambda: gauc(user, click, probability))


def main() -> None:
    publish(
        "components",
        {
            "decoding records of 256 impressions": f"{decoding():,.0f} impressions a second",
            "reading batches of 4,096 from Kafka": f"{reading():,.0f} impressions a second",
            "GAUC of a million impressions": f"{measuring():,.0f} impressions a second",
        },
    )


if __name__ == "__main__":
    main()
