"""How learnable each preset of the market is: floor, plain matrix factorisation, ceiling.

    python benchmarks/market_learnability.py [PRESET ...] [--set KEY=VALUE ...]

Every impression is predicted before it is learnt from. Figures are GAUC over the
last third of the market. `factors` knows ids and positions; `+ attributes` adds
segment and category vectors, so that new ids do not start from nothing;
`popularity` is the factors' model without factors, the floor. The ceiling is the
GAUC of the true click probabilities. Each figure is the best of three learning
rates.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from monitoring.metrics import gauc
from settings import Section, load
from streaming.market import Market
from streaming.market_config import MarketConfig

BATCH = 256
LEARNING_RATES = (0.1, 0.2, 0.4)
SIDES = (("user_id", "segment"), ("item_id", "category"))
BIASES = ("user_id", "item_id", "position", "creative_id", "category")


class Settings(Section):
    market: MarketConfig = MarketConfig()


class Table:
    """Rows of a dense array that learn by Adagrad."""

    def __init__(self, rows: int, width: int, scale: float, seed: int) -> None:
        self.rows = np.random.default_rng(seed).normal(0, scale, (rows, width))
        self._squares = np.full((rows, width), 1e-2)

    def learn(self, index: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Gradients [B, width] of rows ``index`` [B], which may repeat."""
        distinct, place = np.unique(index, return_inverse=True)
        total = np.zeros((len(distinct), gradient.shape[1]))
        np.add.at(total, place, gradient)
        self._squares[distinct] += total**2
        self.rows[distinct] -= rate * total / np.sqrt(self._squares[distinct])


class Factors:
    """Logistic matrix factorisation with biases, optionally over the attributes too."""

    def __init__(self, sizes: dict[str, int], dim: int, attributes: bool, rate: float) -> None:
        self._rate = rate
        names = [side if attributes else side[:1] for side in SIDES]
        self._sides = [
            {name: Table(sizes[name], dim, 0.3, seed) for seed, name in enumerate(side, 10 * i)}
            for i, side in enumerate(names)
        ]
        kept = [name for name in BIASES if name != "category" or attributes]
        self._biases = {name: Table(sizes[name], 1, 0.0, 0) for name in kept}
        self._intercept = Table(1, 1, 0.0, 0)
        self._intercept.rows[:] = -2.5

    def step(self, columns: dict[str, np.ndarray], click: np.ndarray) -> np.ndarray:
        """Predict B impressions, then learn them; returns float64 [B]."""
        user, item = (sum(t.rows[columns[n]] for n, t in side.items()) for side in self._sides)
        log_odds = (user * item).sum(axis=1) + self._intercept.rows[0, 0]
        for name, table in self._biases.items():
            log_odds = log_odds + table.rows[columns[name], 0]
        probability = 1 / (1 + np.exp(-log_odds))
        error = (probability - click)[:, None]
        for side, other in zip(self._sides, (item, user), strict=True):
            for name, table in side.items():
                table.learn(columns[name], error * other, self._rate)
        for name, table in self._biases.items():
            table.learn(columns[name], error, self._rate)
        self._intercept.learn(np.zeros(len(click), np.int64), error, self._rate)
        return probability


def read(market: Market) -> dict[str, tuple[pa.Table, np.ndarray]]:
    slots = list(market.days())
    return {
        "natural": (
            pa.Table.from_batches([s.natural for s in slots]),
            np.concatenate([s.natural_probability for s in slots]),
        ),
        "ad": (
            pa.Table.from_batches([s.ad for s in slots]),
            np.concatenate([s.ad_probability for s in slots]),
        ),
    }


def progressive(rows: pa.Table, dim: int, attributes: bool, rate: float) -> np.ndarray:
    """Predictions float64 [N], each made before its impression was learnt."""
    names = {name for side in SIDES for name in side} | set(BIASES)
    columns = {n: np.unique(rows[n].fill_null(0).to_numpy(), return_inverse=True)[1] for n in names}
    model = Factors({n: int(c.max()) + 1 for n, c in columns.items()}, dim, attributes, rate)
    click = rows["click"].to_numpy().astype(float)
    batches = (slice(i, i + BATCH) for i in range(0, len(click), BATCH))
    return np.concatenate(
        [model.step({n: c[b] for n, c in columns.items()}, click[b]) for b in batches]
    )


class LateGauc:
    """GAUC over the last third of the market."""

    def __init__(self, rows: pa.Table) -> None:
        self._late = slice(len(rows) * 2 // 3, None)
        self._user, self.click = (rows[n].to_numpy()[self._late] for n in ("user_id", "click"))

    def __call__(self, probability: np.ndarray) -> float:
        return gauc(self._user, self.click, probability[self._late]).weighted


def report(config: MarketConfig) -> Iterator[str]:
    for domain, (rows, truth) in read(Market(config)).items():
        began, late_gauc = time.perf_counter(), LateGauc(rows)
        figures = [
            max(late_gauc(progressive(rows, dim, attributes, r)) for r in LEARNING_RATES)
            for dim, attributes in ((0, False), (config.dim + 1, False), (config.dim + 1, True))
        ]
        values = " | ".join(f"{figure:.3f}" for figure in (*figures, late_gauc(truth)))
        seconds = time.perf_counter() - began
        ctr = late_gauc.click.mean()
        yield f"| {domain} | {len(rows):,} | {ctr:.3f} | {values} | {seconds:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=["demo", "standard", "conflict"])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    print("| preset | domain | impressions | CTR | popularity | factors | + attributes | ceiling |")
    for preset in arguments.presets:
        overrides = [f"market.{item}" for item in arguments.overrides]
        settings = load(Settings, None, {}, [f"market.preset={preset}", *overrides])
        for line in report(settings.config.market):
            print(f"| {preset} {line}", flush=True)


if __name__ == "__main__":
    main()
