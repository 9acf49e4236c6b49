"""Impressions a second of `simulate --out`: generated and written as Parquet.

    python benchmarks/simulate_throughput.py [--runs 5]

Median of several runs in one process, over markets with a day's worth of slots
of a size that is fitted to the time this may take; the intercepts are fitted
before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_files import write_slots

MARKETS = {
    "demo, 8 days": {"preset": "demo", "days": 8},
    "large, a quarter of its traffic, 1 day": {
        "preset": "large",
        "days": 1,
        "natural_per_day": 2_000_000,
        "ads_per_day": 125_000,
    },
}


def rate(config: MarketConfig) -> float:
    market = Market(config)
    assert market.intercepts
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        rows = sum(impressions for _, impressions, _ in write_slots(market, Path(out)))
        return rows / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print(f"{os.cpu_count()} cores, median of {runs} runs (lowest to highest)")
    for name, values in MARKETS.items():
        rates = sorted(rate(MarketConfig.model_validate(values)) for _ in range(runs))
        middle = statistics.median(rates)
        print(f"{name}: {middle:,.0f} impressions/s ({rates[0]:,.0f} to {rates[-1]:,.0f})")


if __name__ == "__main__":
    main()
