"""More than can be learnt, for ten minutes: who grows, who warns, and is anything lost?

    python -m benchmarks.overload --minutes 10

Kafka, A-CTR, the monitor and the market are processes of their own, with Debian's Prometheus
and the shipped rules beside them. A-CTR's speed is measured on a backlog first; then the
market writes at three times that speed. When it ends, A-CTR catches up. Meanwhile the
resident memory of every process is sampled, and the alerts that fire are noted. In the end
every impression of the topic must have exactly one prediction.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overload_figures import Growth, accounted, impression_ids, predicted_ids
from benchmarks.overload_watch import Watch, counts
from benchmarks.prometheus import Prometheus
from benchmarks.report import publish
from config import Config
from streaming.kafka_clients import resolve, wait_for_broker
from supervisor import Child

TIMES = 3
BATCH = 128
DAY = 1_000 * BATCH
"""Ads a day: whole batches, as a live trainer lets what does not fill one wait."""
ALERT = "LagGrowing actr"
PATIENCE_MINUTES = 5
"""A shorter overload is over before the alert may fire."""
MOST_RISE = 0.1
"""Of a process's memory, over the rest of the run after its warm-up."""
MOST_KAFKA = 384 + 128
"""MiB: Java's heap, whose pages are first touched as it fills, and what there is beside it."""
LOOK_SECONDS = 5.0
START_SECONDS = 120.0
STUCK_SECONDS = 600.0
STOP_SECONDS = 60.0

SETTINGS = {
    "market.users": 20_000,
    "market.items": 5_000,
    "market.advertised": 2_000,
    "market.slots_per_day": 24,
    "market.natural_per_day": 24,
    "market.ads_per_day": DAY,
    "actr.batch_size": BATCH,
    "actr.threads": 1,
    "actr.device": "cpu",
    "actr.model.ids.rows": 8_000,
    "actr.checkpoint.every_batches": 200,
    "monitor.max_rows": 1_000_000,
    "kafka.start_wait_seconds": START_SECONDS,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it is too much")
    minutes = parser.parse_args().minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in order, with all processes
    with (
        tempfile.TemporaryDirectory(prefix="ecdctr-overload-") as folder,
        processes(Path(folder)) as run,
    ):
        speed = run.calibrate()
        print(f"A-CTR learns {speed:,.0f} a second; writing {TIMES} times that", flush=True)
        watch = run.watch()
        meanwhile = run.overload(watch, TIMES * speed, minutes * 60)
        caught_up = run.catch_up(watch, meanwhile.written)
        run.stop_readers()
        lost, twice = run.account(meanwhile.written)
    figures = {"A-CTR alone, impressions a second": f"{speed:,.0f}"}
    figures |= meanwhile.figures() | {"all learnt and watched": f"in minute {caught_up:.1f}"}
    figures |= seen_by(watch)
    figures |= {"impressions without a prediction": lost, "predicted more than once": twice}
    publish("overload", figures)
    return judge(watch, lost + twice, minutes >= PATIENCE_MINUTES)


@dataclass(frozen=True)
class Overload:
    """What was written, the backlog for the calibration included, and what was learnt of it."""

    written: int
    learnt: float
    minutes: float

    def figures(self) -> dict[str, object]:
        seconds = 60 * self.minutes
        return {
            "impressions in all": f"{self.written:,}",
            "written a second": f"{(self.written - DAY) / seconds:,.0f} "
            f"for {self.minutes:.1f} minutes",
            "learnt a second meanwhile": f"{(self.learnt - DAY) / seconds:,.0f}",
        }


@dataclass
class Run:
    """The processes, and what is done with them."""

    config: Config
    prometheus: Prometheus
    kafka: Child
    trainer: Child
    monitor: Child

    def watch(self) -> Watch:
        return Watch(self.config.run_dir, self.config.topics.ad, self.prometheus, self.kafka)

    def calibrate(self) -> float:
        """Impressions a second that A-CTR learns of a backlog of one day of the market."""
        with self._market(days=1) as market:
            until(lambda: market.done, 300, "the backlog is written")
        self.trainer.start()
        until(lambda: self._learnt() > DAY / 8, 300, "A-CTR learns")
        begin, first = time.monotonic(), self._learnt()
        until(lambda: self._learnt() > DAY * 3 / 4, 900, "A-CTR goes on learning")
        speed = (self._learnt() - first) / (time.monotonic() - begin)
        until(lambda: self._learnt() >= DAY, 300, "A-CTR has learnt the backlog")
        return speed

    def overload(self, watch: Watch, rate: float, seconds: float) -> Overload:
        """The market goes on with whole days, at ``rate``, for about ``seconds``."""
        days = 1 + max(1, round(rate * seconds / DAY))
        with self._market(days=days, rate=rate) as market:
            while not market.done:
                time.sleep(LOOK_SECONDS)
                require(market, self.trainer, self.monitor, self.kafka)
                watch.look(before=DAY)
        return Overload(days * DAY, self._learnt(), watch.minute)

    def catch_up(self, watch: Watch, written: int) -> float:
        """Until all is learnt and watched and the alert is over; the minute of the former."""
        moved, last, caught_up = time.monotonic(), -1.0, 0.0
        while True:
            time.sleep(LOOK_SECONDS)
            require(self.trainer, self.monitor, self.kafka)
            seen, firing = watch.look(before=written)
            done = seen.learnt + seen.watched
            if done == 2 * written:
                caught_up = caught_up or watch.minute
                if ALERT not in firing:
                    return caught_up
            if done > last:
                moved, last = time.monotonic(), done
            if time.monotonic() - moved > STUCK_SECONDS:
                raise SystemExit(f"stuck: of {written:,} impressions {seen}; firing: {firing}")

    def stop_readers(self) -> None:
        for child in (self.trainer, self.monitor):
            child.stop(STOP_SECONDS)
            assert child.process is not None
            if child.process.returncode:
                raise SystemExit(f"{child.name} did not end in order: {child.last_words(5)}")

    def account(self, written: int) -> tuple[int, int]:
        """Impressions without a prediction, and predictions too many, repeats dropped."""
        kafka, topics = resolve(self.config.kafka, self.config.run_dir), self.config.topics
        ids = impression_ids(kafka, topics.ad, self.config.impressions)
        if len(ids) != written:
            raise SystemExit(f"{len(ids):,} impressions in the topic, {written:,} were written")
        return accounted(ids, predicted_ids(kafka, topics.predictions_of("actr")))

    def _learnt(self) -> float:
        return counts(self.config.run_dir, self.config.topics.ad).learnt

    @contextlib.contextmanager
    def _market(self, days: int, rate: float = 0.0) -> Iterator[Child]:
        words = ("simulate", f"--days={days}", f"--rate={rate}")
        market = _child(self.config.run_dir, "simulate", *words, finite=True)
        market.start()
        try:
            yield market
        finally:
            market.stop(STOP_SECONDS)


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Run]:
    """Kafka, monitor and Prometheus run; A-CTR is ready to be started."""
    run_dir = folder / "run"
    config = Config.model_validate({"run_dir": run_dir})
    kafka = _child(run_dir, "kafka", "kafka")
    trainer = _child(run_dir, "train-actr", "train", "actr")
    monitor = _child(run_dir, "monitor", "monitor")
    try:
        kafka.start()
        coming = config.kafka.model_copy(update={"start_wait_seconds": START_SECONDS})
        wait_for_broker(resolve(coming, run_dir), START_SECONDS)
        monitor.start()
        targets = run_dir / "prometheus" / "targets.json"
        with Prometheus(folder / "prometheus", targets) as prometheus:
            yield Run(config, prometheus, kafka, trainer, monitor)
    finally:
        for child in (trainer, monitor, kafka):
            child.stop(STOP_SECONDS)


def _child(run_dir: Path, name: str, *words: str, finite: bool = False) -> Child:
    flags = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    command = [sys.executable, "-m", "cli", *words, "--run-dir", str(run_dir), *flags]
    return Child(name, command, run_dir / "logs" / f"{name}.log", finite=finite)


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        time.sleep(0.5)


def require(*children: Child) -> None:
    for child in children:
        if not child.running and not child.done:
            raise SystemExit(f"{child.name} died: {child.last_words(5)}")


def seen_by(watch: Watch) -> dict[str, object]:
    """Alerts, and memory of each process."""
    times = {alert: f"minute {a:.1f} to {b:.1f}" for alert, (a, b) in watch.fired.items()}
    found: dict[str, object] = {
        "furthest behind": f"{watch.furthest_behind:,.0f} impressions",
        f"{ALERT} fired": times.pop(ALERT, "never"),
        "other alerts": ", ".join(f"{name} ({when})" for name, when in times.items()) or "none",
    }
    for name, seen in watch.growths().items():
        found[f"resident memory, {name}"] = (
            f"{seen.median:,.0f} MiB, greatest {seen.greatest:,.0f}; "
            f"after warm-up {seen.slope:+.2f} a minute, {seen.rise:+.1%} in all"
        )
    return found


def grew(name: str, seen: Growth) -> bool:
    """Whether that may have no end."""
    return seen.greatest > MOST_KAFKA if name == "kafka" else seen.rise > MOST_RISE


def judge(watch: Watch, faults: int, long_enough: bool) -> int:
    """Exit status; alert and memory count where the overload was long enough."""
    failed = [f"{faults} impressions were not predicted exactly once"] if faults else []
    if long_enough:
        failed += [f"{ALERT} did not fire"] if ALERT not in watch.fired else []
        failed += [
            f"{name} grew: {seen}" for name, seen in watch.growths().items() if grew(name, seen)
        ]
    for sentence in failed:
        print(f"FAILED: {sentence}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
