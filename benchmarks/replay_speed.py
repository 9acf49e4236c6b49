"""A replay's speed beside that of its levels over batches held in memory.

Each round runs the whole replay of one variant (reading, histories, snapshots,
hand-downs, held-back samples) over a market's log, and then steps a fresh learner of
every level over the same batches, made ready before. The figure is the seconds of those
steps over the seconds of the replay: 1 when a replay costs nothing but the learning.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import median, publish, spread
from config import Config
from settings import load
from streaming.market import Market
from streaming.market_files import write_slots
from trainers.features import History
from trainers.learner import Learner
from trainers.levels import level as find_level
from trainers.replay.level_run import settled
from trainers.replay.log import AD, NATURAL, RecordedLog
from trainers.replay.plan import VARIANTS, levels
from trainers.replay.run import Replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30, help="of the market `standard`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", default="full", choices=sorted(VARIANTS))
    parser.add_argument("--config", type=Path, default=Path("configs/replay.toml"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    market = ["market.preset=standard", f"market.days={options.days}"]
    config = load(Config, options.config, overrides=market).config
    with tempfile.TemporaryDirectory(prefix="ecdctr-bench-") as folder:
        place = Path(folder) / "log"
        for _ in write_slots(Market(config.market), place):
            pass
        log = RecordedLog(place, config.impressions)
        rounds = [
            one(log, config, options.variant, Path(folder) / f"round-{i}")
            for i in range(options.rounds)
        ]
    publish("replay_speed", figures(rounds))


def one(log: RecordedLog, config: Config, variant: str, out: Path) -> dict[str, float]:
    """Seconds of the replay, and of each level in memory."""
    applied = VARIANTS[variant].applied(config)
    started = time.perf_counter()
    Replay(log, config, out, _Unseen()).outcome(VARIANTS[variant])
    seconds = {"replay": time.perf_counter() - started}
    seconds |= {name: in_memory(log, applied, name) for name in levels(applied)}
    print(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()), flush=True)
    return seconds


def in_memory(log: RecordedLog, config: Config, name: str) -> float:
    """Seconds that a level's steps take, with all that they read made ready before."""
    level = find_level(name, config)
    learner = Learner(settled(level.config), level.schema)
    domain = AD if name == "actr" else NATURAL
    slots, dim = level.config.model.history_slots, config.tpm.model.dim
    ready = []
    for batch in log.batches((domain,), level.config.batch_size):
        made = learner.to_batch(batch.rows)
        if slots:
            made.history = History.none(made.rows, slots, dim)
        ready.append(made)
    started = time.perf_counter()
    for made in ready:
        learner.step(made)
    return time.perf_counter() - started


def figures(rounds: list[dict[str, float]]) -> dict[str, str]:
    names = [name for name in rounds[0] if name != "replay"]
    ratios = [sum(r[name] for name in names) / r["replay"] for r in rounds]
    return {
        "levels in memory / replay, seconds": spread(ratios),
        **{f"{name}, seconds": f"{median([r[name] for r in rounds]):.1f}" for name in rounds[0]},
    }


class _Unseen:
    """Nobody looks on."""

    def began(self, what: str, impressions: int) -> Callable[[int], None]:
        return lambda count: None

    def ended(self, what: str, known: bool) -> None:
        pass


if __name__ == "__main__":
    main()
