"""What is seen of the processes of an overload: counts, memory, alerts, and a line a minute."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.overload_figures import Growth, growth
from benchmarks.prometheus import Prometheus
from monitoring.processes import running
from monitoring.scrape import scrape_all
from monitoring.targets import write_targets
from supervisor import Child

LEAST_SAMPLES = 8


@dataclass(frozen=True)
class Counts:
    """Impressions that A-CTR has learnt, that the market's process has written so far, and
    predictions that the monitor has read; 0 of a process that does not answer."""

    learnt: float
    produced: float
    watched: float


def counts(run_dir: Path, topic: str) -> Counts:
    samples = [sample for one in scrape_all(running(run_dir)) for sample in one.samples]

    def total(name: str, **labels: str) -> float:
        own = (s for s in samples if s.name == name and labels.items() <= s.labels.items())
        return sum(sample.value for sample in own)

    return Counts(
        learnt=total("impressions_learnt_total"),
        produced=total("impressions_produced_total", topic=topic),
        watched=total("monitor_predictions_total", level="actr"),
    )


@dataclass
class Watch:
    """Minutes are since it was made."""

    run_dir: Path
    topic: str
    prometheus: Prometheus
    kafka: Child
    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Process to (minute, resident MiB)."""
    fired: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Alert to the first and the last minute in which it was seen firing."""
    furthest_behind: float = 0.0
    _begin: float = field(default_factory=time.monotonic)
    _said: int = 0

    @property
    def minute(self) -> float:
        return (time.monotonic() - self._begin) / 60

    def look(self, before: float) -> tuple[Counts, set[str]]:
        """What is so now, and which alerts fire; ``before``: written by earlier processes."""
        write_targets(self.run_dir)
        seen, firing = counts(self.run_dir, self.topic), self.prometheus.firing()
        minute, behind = self.minute, before + seen.produced - seen.learnt
        self.furthest_behind = max(self.furthest_behind, behind)
        for name, mib in _resident(self.run_dir, self.kafka).items():
            self.samples.setdefault(name, []).append((minute, mib))
        for alert in firing:
            self.fired[alert] = self.fired.get(alert, (minute, minute))[0], minute
        if minute >= self._said:
            self._said += 1
            self._say(seen, behind, firing)
        return seen, firing

    def _say(self, seen: Counts, behind: float, firing: set[str]) -> None:
        memory = ", ".join(f"{name} {of[-1][1]:,.0f}" for name, of in sorted(self.samples.items()))
        print(
            f"minute {self.minute:.0f}: learnt {seen.learnt:,.0f}, behind {behind:,.0f}; "
            f"MiB: {memory}; firing: {', '.join(sorted(firing)) or 'nothing'}",
            flush=True,
        )

    def growths(self) -> dict[str, Growth]:
        enough = {name: of for name, of in self.samples.items() if len(of) >= LEAST_SAMPLES}
        return {name: growth(of) for name, of in sorted(enough.items())}


def _resident(run_dir: Path, kafka: Child) -> dict[str, float]:
    """MiB of every process that registered, and of the broker's Java."""
    pids = {process.name: process.pid for process in running(run_dir)}
    assert kafka.process is not None
    for child in psutil.Process(kafka.process.pid).children(recursive=True):
        if child.name() == "java":
            pids["kafka"] = child.pid
    found = {}
    for name, pid in pids.items():
        with contextlib.suppress(psutil.Error):  # it has just ended
            found[name] = psutil.Process(pid).memory_info().rss / 2**20
    return found
