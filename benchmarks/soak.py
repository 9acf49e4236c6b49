"""Ten million impressions through the real trainer process: its memory must stay flat.

A market with ten times more ids than rows is written to a real Kafka while `ecdctr
train actr` learns from it; the resident memory of its two processes is sampled. Flat
means: once the tables are full, the median of the run's last quarter is at most 3 % above
the median of its second quarter.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.report import median, publish
from benchmarks.workload import LEVEL, MARKET, broker, write_log
from monitoring.processes import running
from monitoring.scrape import scrape_all
from settings import flatten

LIMIT = 1.03
SAMPLE_SECONDS = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=10_000_000)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of a managed table")
    options = parser.parse_args()
    with broker() as (kafka, folder):
        print(f"writing {options.impressions:,} impressions", flush=True)
        log = write_log(kafka, options.impressions, MARKET)
        command = trainer_command(kafka.bootstrap_servers, folder / "run", options.rows)
        with trainer(command, folder / "train.log") as process:
            samples = watch(process, folder / "run", log.impressions)
    half = [s for s in samples if s[0] >= log.impressions / 4]
    second = [mib for learnt, mib in half if learnt < log.impressions / 2]
    last = [mib for learnt, mib in half if learnt >= 3 * log.impressions / 4]
    ratio = median(last) / median(second)
    publish(
        "soak",
        {
            "impressions": f"{log.impressions:,}",
            "resident memory, second quarter": f"{median(second):,.0f} MiB",
            "resident memory, last quarter": f"{median(last):,.0f} MiB",
            "last / second": f"{ratio:.3f} (limit {LIMIT})",
        },
    )
    return 0 if ratio <= LIMIT else 1


def trainer_command(servers: str, run_dir: Path, rows: int) -> list[str]:
    level = {"actr": LEVEL | {"checkpoint": {"every_batches": 200}}}
    settings = flatten(level) | {"actr.model.ids.rows": rows, "run_dir": run_dir}
    settings["actr.model.hidden"] = list(LEVEL["model"]["hidden"])  # type: ignore[index]
    flags = [f"--set={key}={value}" for key, value in settings.items()]
    return [
        *(sys.executable, "-m", "cli", "train", "actr", "--until-end"),
        *("--bootstrap-servers", servers, *flags),
    ]


@contextlib.contextmanager
def trainer(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ)
        try:
            yield process
            if process.wait(120) != 0:
                raise SystemExit(f"the trainer failed: {log.read_text()[-500:]}")
        finally:
            process.kill()
            process.wait()


def watch(
    process: subprocess.Popen[bytes], run_dir: Path, impressions: int
) -> list[tuple[float, float]]:
    """(impressions learnt, resident MiB) until the process ends or has learnt them all."""
    samples: list[tuple[float, float]] = []
    resident = psutil.Process(process.pid)
    said = 0.0
    while process.poll() is None:
        learnt = _learnt(run_dir)
        with contextlib.suppress(psutil.Error):
            family = [resident, *resident.children()]
            samples.append((learnt, sum(one.memory_info().rss for one in family) / 2**20))
        if learnt - said >= impressions / 10:
            said = learnt
            print(f"{learnt:,.0f} learnt, {samples[-1][1]:,.0f} MiB", flush=True)
        time.sleep(SAMPLE_SECONDS)
    return samples


def _learnt(run_dir: Path) -> float:
    samples = (s for scraped in scrape_all(running(run_dir)) for s in scraped.samples)
    return sum(s.value for s in samples if s.name.endswith("impressions_learnt_total"))


if __name__ == "__main__":
    sys.exit(main())
