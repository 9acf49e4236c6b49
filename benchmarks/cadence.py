"""The price of cadence: what handing down more often is worth, and what it costs.

    python -m benchmarks.cadence --markets standard --seeds 1

Two ways of handing down, each alone and at five cadences of event time: *history*, the
newest of TPM's periods and no CPM; *deltas*, CPM's changes and no history. A table says
what of the gap from ads alone to the ceiling each closes, and the bytes and seconds that
the level above it took; a picture shows the gap. What is finished is kept in --out and
not done again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.method import SETTINGS, run
from benchmarks.report import publish
from config import Config
from settings import load
from trainers.replay.figures import Figures, Line
from trainers.replay.plan import CHANGES, NEWEST, VARIANTS, Variant
from trainers.replay.svg import over_steps

HOURS = {"month": 720, "week": 168, "day": 24, "6 hours": 6, "hour": 1}
LEVEL = {"history": "tpm", "deltas": "cpm"}
"""The level that each way's bytes and seconds are those of."""
TUNED = {"history": "history-only", "deltas": "full"}
"""The variant whose learning rates each way has: a variant's name begins with it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--market", default="standard")
    parser.add_argument("--seeds", default="1", help="separated by commas")
    parser.add_argument("--out", type=Path, default=Path("run/method"))
    parser.add_argument("--picture", type=Path, default=Path("docs/cadence.svg"))
    options = parser.parse_args()
    config = load(Config, SETTINGS, {}, []).config
    plan = (VARIANTS["ads-only"], *(v for way in LEVEL for v in at_each(way)))
    seeds = options.seeds.split(",")
    found = [run(config, options.market, seed, plan, options.out) for seed in seeds]
    lines = {line.name: [_line(figures, line.name) for figures in found] for line in found[0].lines}
    table = {
        f"{way} every {cadence}": _text(LEVEL[way], lines[_name(way, cadence)])
        for way in LEVEL
        for cadence in HOURS
    }
    publish("cadence", table)
    gaps = {way: [_gap(lines[_name(way, cadence)]) for cadence in HOURS] for way in LEVEL}
    options.picture.write_text(over_steps(list(HOURS), gaps, "share of the gap closed"))
    print(f"picture: {options.picture}")


def at_each(way: str) -> list[Variant]:
    """``way`` at every cadence."""
    if way == "history":
        settings, key = (*NEWEST, ("actr.transfer", "none")), "history.period_hours"
    else:
        settings, key = (*CHANGES, ("actr.history", "false")), "cpm.hand_down_hours"
    return [
        Variant(_name(way, name), f"{way} every {name}", (*settings, (key, str(hours))))
        for name, hours in HOURS.items()
    ]


def _name(way: str, cadence: str) -> str:
    return f"{TUNED[way]} {way} every {cadence}"


def _line(figures: Figures, name: str) -> Line:
    return next(line for line in figures.lines if line.name == name)


def _gap(lines: list[Line]) -> float:
    return statistics.mean(line.gap_closed for line in lines)


def _text(level: str, lines: list[Line]) -> str:
    gauc = statistics.mean(line.gauc for line in lines)
    spent = [line.spent[level] for line in lines]
    seconds = statistics.mean(s.seconds for s in spent)
    size = statistics.mean(s.handed_down for s in spent)
    of_actr = statistics.mean(line.spent["actr"].seconds for line in lines)
    return (
        f"gap closed {_gap(lines):.2f}, GAUC {gauc:.4f}, {size / 2**20:,.1f} MiB handed down, "
        f"{level} {seconds:.0f} s, A-CTR {of_actr:.0f} s"
    )


if __name__ == "__main__":
    main()
