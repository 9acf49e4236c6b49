"""What one hand-down from CPM to A-CTR costs: bytes on the disk, and seconds on either side.

CPM learns days of a large market, one million impressions each. A day to fill its tables,
then one with a delta every hour, then one with a single delta. The whole model is handed
down as often as rounds are asked for. A-CTR begins as CPM's copy when the tables are
full. Seconds are those for which a trainer stands still: on CPM's side until every file is
on the disk with its checksum, on A-CTR's side with the checksums verified.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from benchmarks.report import publish, spread
from benchmarks.workload import BATCH, LEVEL, MARKET, SCHEMA, widened
from config import Config
from streaming.market import Market
from trainers.checkpoint import Progress, verify
from trainers.delta import DeltaTracker
from trainers.hand_down import HandDownStore
from trainers.host_memory import keep_freed_memory
from trainers.learner import Learner
from trainers.levels import level
from trainers.state import write_state
from trainers.transfer import (
    accept_deltas,
    apply_delta,
    export_delta,
    export_full,
    read_delta,
    reinitialize,
)

HOURS = 24
MIB = 2**20


@dataclass
class Costs:
    """Of one kind of hand-down, one value each time."""

    mib: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)  # thousands that changed, all tables
    given: list[float] = field(default_factory=list)  # seconds, CPM
    taken: list[float] = field(default_factory=list)  # seconds, A-CTR

    def figures(self, name: str) -> dict[str, str]:
        found = {f"{name}: size": f"{spread(self.mib)} MiB"}
        if self.rows:
            found[f"{name}: rows"] = f"{spread(self.rows)} thousand"
        found[f"{name}: CPM stands still"] = f"{spread(self.given)} s"
        found[f"{name}: A-CTR stands still"] = f"{spread(self.taken)} s"
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--day", type=int, default=1_000_000, help="impressions a day")
    parser.add_argument("--rounds", type=int, default=5, help="whole models handed down")
    options = parser.parse_args()
    keep_freed_memory()
    hours = Hours(options.day)
    with tempfile.TemporaryDirectory(prefix="ecdctr-bench-") as folder:
        bench = Bench(Path(folder))
        print(f"filling the tables with {options.day:,} impressions", flush=True)
        for _ in range(HOURS):
            bench.learn(hours.next())
        bench.begin()
        hourly, daily, whole = Costs(), Costs(), Costs()
        for hour in range(HOURS):
            bench.learn(hours.next())
            bench.delta(hourly)
            print(f"hour {hour + 1}: {hourly.mib[-1]:.1f} MiB", flush=True)
        for _ in range(HOURS):
            bench.learn(hours.next())
        bench.delta(daily)
        for _ in range(options.rounds):
            bench.whole(whole)
    named = {"delta, hourly": hourly, "delta, daily": daily, "whole model": whole}
    figures = {"impressions a day": f"{options.day:,}", "batch": f"{BATCH:,}"}
    for name, costs in named.items():
        figures |= costs.figures(name)
    publish("hand_down", figures)


class Hours:
    """The market's impressions, hour after hour, in batches."""

    def __init__(self, per_day: int) -> None:
        market = MARKET.model_copy(update={"ads_per_day": per_day, "slots_per_day": HOURS})
        self._slots = Market(market).slots()

    def next(self) -> Iterator[pa.RecordBatch]:
        slot = next(self._slots)
        rows = widened(slot.ad, slot.index)
        for start in range(0, rows.num_rows, BATCH):
            yield rows.slice(start, BATCH)


class Bench:
    """CPM, A-CTR and the hand-downs between them."""

    def __init__(self, folder: Path) -> None:
        config = Config.model_validate(
            {
                "impressions": SCHEMA.model_dump(),
                "actr": LEVEL | {"transfer": "delta"},
                "cpm": {"batch_size": BATCH},
            }
        )
        self._cpm, self._actr = (
            Learner(level(name, config).config, SCHEMA) for name in ("cpm", "actr")
        )
        accept_deltas(self._actr, config.actr.transfer_waiting)
        self._folder, self._store = folder, HandDownStore(folder / "handdowns", keep=1)
        self._store.prepare()
        self._number = 0

    def learn(self, batches: Iterator[pa.RecordBatch]) -> None:
        for rows in batches:
            self._cpm.step(self._cpm.to_batch(rows))

    def begin(self) -> None:
        """A-CTR becomes CPM's copy, and changes count from here on."""
        path = self._folder / "copy"
        path.mkdir()
        write_state(self._cpm.snapshot(), path)
        self._actr.load(path)
        shutil.rmtree(path)
        self._tracker = DeltaTracker(self._cpm)

    def delta(self, costs: Costs) -> None:
        def write(path: Path) -> None:
            export_delta(self._cpm, self._tracker, path)
            self._tracker.rebase()

        def take(path: Path) -> None:
            delta = read_delta(path)
            apply_delta(self._actr, delta)
            costs.rows.append(delta.rows / 1_000)

        self._hand_down(costs, write, take)

    def whole(self, costs: Costs) -> None:
        self._hand_down(
            costs,
            lambda path: export_full(self._cpm, path),
            lambda path: reinitialize(self._actr, path),
        )

    def _hand_down(
        self, costs: Costs, write: Callable[[Path], None], take: Callable[[Path], None]
    ) -> None:
        self._number += 1
        started = time.perf_counter()
        self._store.begin(self._number)
        write(self._store.writing(self._number))
        path = self._store.commit(self._number, Progress())
        costs.given.append(time.perf_counter() - started)
        files = [file for file in path.rglob("*") if file.is_file()]
        costs.mib.append(sum(file.stat().st_size for file in files) / MIB)
        started = time.perf_counter()
        verify(path)
        take(path)
        costs.taken.append(time.perf_counter() - started)
        self._store.prune()


if __name__ == "__main__":
    main()
