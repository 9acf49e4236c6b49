"""What each variant of the method is worth, over several markets: tuned alike, then compared.

    python -m benchmarks.method tune --seeds 101,102
    python -m benchmarks.method tune-bias --seeds 101,102
    python -m benchmarks.method compare --markets standard,conflict --seeds 1,2,3,4,5

`tune` runs every variant with the same grid of A-CTR's learning rates on markets of seeds that
nothing else is reported of, and prints for each the pair with the best mean GAUC, as
`[replay.rates]` of configs/replay.toml. `tune-bias` does the same with the rate of the output's
bias, beside the rates that are configured there. `compare` runs all variants as they are configured
there, and prints GAUC over the last half, means over seeds, and differences from `full` with
95 % intervals (Student's t over the seeds). What is finished is kept in --out and not done
again, so a run may be interrupted, and seeds added. One thread a process, for the same bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import publish
from config import Config
from monitoring.comparison import mean_with_interval
from settings import load
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_files import write_slots
from trainers.replay.command import Bars, judge
from trainers.replay.figures import Figures
from trainers.replay.log import RecordedLog
from trainers.replay.plan import VARIANTS, Variant
from trainers.replay.run import Replay

NAMES = tuple(name for name in VARIANTS if not name.startswith("full-"))
Grid = dict[str, tuple[str, ...]]  # a learning rate and what to try for it
WEIGHTS: Grid = {
    "table_learning_rate": ("0.01", "0.1"),
    "dense_learning_rate": ("0.0001", "0.001", "0.003"),
}
BIAS: Grid = {"bias_learning_rate": ("0", "0.01")}
GRIDS = {"tune": WEIGHTS, "tune-bias": BIAS}
SETTINGS = Path("configs/replay.toml")
REFERENCE = "full"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=(*GRIDS, "compare"))
    parser.add_argument("--markets", type=_words, default=None)
    parser.add_argument("--seeds", type=_words, default=None)
    parser.add_argument("--variants", type=_words, default=NAMES)
    parser.add_argument("--out", type=Path, default=Path("run/method"))
    chosen = parser.parse_args()
    tuning = chosen.what in GRIDS
    markets = chosen.markets or (("standard",) if tuning else ("standard", "conflict"))
    seeds = chosen.seeds or (("101", "102") if tuning else ("1", "2", "3", "4", "5"))
    config = load(Config, SETTINGS, {}, []).config
    logs = [(market, seed) for seed in seeds for market in markets]
    if tuning:
        tune(config, logs, chosen.variants, GRIDS[chosen.what], chosen.out)
    else:
        compare(config, logs, chosen.variants, chosen.out)


def tune(
    config: Config, logs: list[tuple[str, str]], names: Sequence[str], grid: Grid, out: Path
) -> None:
    """Print the best of the grid for each variant, by the mean GAUC over ``logs``."""
    for name in names:
        found: dict[tuple[str, ...], list[float]] = {}
        tries = dict(tries_of(VARIANTS[name], grid))
        for market, seed in logs:  # one variant at a time: what is judged together is in memory
            figures = run(config, market, seed, tuple(tries.values()), out)
            for point, line in zip(tries, figures.lines, strict=True):
                found.setdefault(point, []).append(line.gauc)
        means = {point: statistics.mean(values) for point, values in found.items()}
        print(f"\n{name}: " + ", ".join(f"{'/'.join(p)} {g:.4f}" for p, g in means.items()))
        best = max(means, key=means.__getitem__)
        lines = [f"{rate} = {value}" for rate, value in zip(grid, best, strict=True)]
        print("\n".join([f"[replay.rates.{name}]", *lines]), flush=True)


def tries_of(variant: Variant, grid: Grid) -> Iterator[tuple[tuple[str, ...], Variant]]:
    """Each point of the grid, and ``variant`` with it."""
    for point in itertools.product(*grid.values()):
        rates = ((f"actr.optimizer.{r}", v) for r, v in zip(grid, point, strict=True))
        name = " ".join([variant.name, *point])
        yield point, dataclasses.replace(variant, name=name, settings=(*variant.settings, *rates))


def compare(config: Config, logs: list[tuple[str, str]], names: Sequence[str], out: Path) -> None:
    """Print and keep the figures of each market, over its seeds."""
    variants = tuple(VARIANTS[name] for name in names)
    found: dict[str, list[Figures]] = {}
    for market, seed in logs:
        found.setdefault(market, []).append(run(config, market, seed, variants, out))
    for market, seeds in found.items():
        publish(f"method-{market}", dict(rows(seeds)))


def rows(seeds: Sequence[Figures]) -> Iterator[tuple[str, str]]:
    """A line for each variant: GAUC by seed, mean, difference from the reference, costs."""
    ceiling = [figures.ceiling for figures in seeds]
    yield "ceiling", f"{statistics.mean(ceiling):.4f} ({_each(ceiling)})"
    reference = next((i for i, x in enumerate(seeds[0].lines) if x.name == REFERENCE), None)
    for index, line in enumerate(seeds[0].lines):
        gauc = [figures.lines[index].gauc for figures in seeds]
        gap = statistics.mean(figures.lines[index].gap_closed for figures in seeds)
        copc = statistics.mean(figures.lines[index].copc for figures in seeds)
        bwt = statistics.mean(f.lines[index].forgetting.backward_transfer for f in seeds)
        text = f"{statistics.mean(gauc):.4f} ({_each(gauc)}), gap closed {gap:.2f}"
        text += f", COPC {copc:.2f}, BWT {bwt:+.3f}"
        if reference not in (None, index):
            better = [f.lines[reference].gauc - f.lines[index].gauc for f in seeds]
            found = mean_with_interval(better)
            low, high = found.interval.low, found.interval.high
            text += f", {REFERENCE} is above by {found.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        yield line.name, f"{text}, learnt in the ad path {line.spent['actr'].samples:,}"


def _each(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def run(
    config: Config,
    market: str,
    seed: str,
    variants: tuple[Variant, ...],
    out: Path,
    kind: type[Replay] = Replay,
) -> Figures:
    """``variants`` over the market of this preset and seed, made if it is not there yet."""
    folder = out / f"{market}-{seed}"
    settings = MarketConfig(preset=market, seed=int(seed))
    for _ in write_slots(Market(settings), folder / "market"):
        pass
    log = RecordedLog(folder / "market", config.impressions)
    with Bars() as bars:
        replay = kind(log, config, folder, bars)
        return judge({variant.name: replay.outcome(variant) for variant in variants}, log, config)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
