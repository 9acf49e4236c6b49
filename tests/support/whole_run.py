"""A whole run up to its log's end: TPM, refresher, CPM, A-CTR and Kafka, all under fire."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from hand_down_support import HAND_DOWN_SETTINGS, configuration
from nursery_support import Life, Nursery
from refresher_process import SECONDS, Refreshers
from tests_support import eventually
from trainer_support import Home

from config import Config
from monitoring.processes import running
from streaming.embedded_kafka import EmbeddedKafka
from streaming.topics import TopicsConfig
from trainers.checkpoint import Checkpoint

LEVELS = ("tpm", "cpm", "actr")
REFRESHER = "refresher"
PROCESSES = (*LEVELS, REFRESHER)
KAFKA = "kafka"
VICTIMS = (*PROCESSES, KAFKA)
WATCH_SECONDS = 0.002

# TPM may be at the log's end before A-CTR has begun: nothing that was due may be given up.
WHOLE_RUN_SETTINGS = (
    HAND_DOWN_SETTINGS.format(transfer="delta")
    .replace("[actr]\n", "[actr]\nhistory = true\n")
    .replace("[cpm]\n", "[cpm]\nalign = true\n")
    + """
[tpm]
batch_size = 128
metrics_window = 1000
device = "cpu"
threads = 1
[tpm.checkpoint]
every_batches = 3
[tpm.model]
hidden = [16]
eviction_interval = 4
ids = { rows = 32 }
[kafka]
start_wait_seconds = 60
[history]
period_hours = 48
buckets = 2
versions = 8
refresh_seconds = 0.5
"""
)


@dataclass(frozen=True)
class Kill:
    """`start`: ``value`` seconds after a life began; `step`: when that step is on disk."""

    when: Literal["start", "step"]
    value: float


Plan = Mapping[str, Sequence[Kill]]
"""Of each victim, its kills in order; lives without one go on to the end."""


def random_plan(rng: np.random.Generator, last_steps: Mapping[str, int], kills: int) -> Plan:
    """``kills`` of each process: trainers' all over their logs and as they start."""
    plan: dict[str, list[Kill]] = {}
    for level in LEVELS:
        steps = np.sort(rng.uniform(1, 0.9 * last_steps[level], kills))
        plan[level] = [Kill("step", step) for step in steps.tolist()]
        plan[level][int(rng.integers(kills))] = Kill("start", rng.uniform(0, 1.5))
    plan[REFRESHER] = [Kill("start", seconds) for seconds in rng.uniform(0, 6, kills).tolist()]
    plan[KAFKA] = [Kill("start", rng.uniform(1, 8))]
    return plan


@dataclass
class WholeRun:
    """One run directory, the topics of one run, and the processes as long as they live."""

    nursery: Nursery
    broker: EmbeddedKafka
    topics: TopicsConfig
    run_dir: Path
    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VICTIMS, 0))
    """How often each process was cut short."""

    def __post_init__(self) -> None:
        self.kafka = self.broker.config
        self._home = Home(self.nursery, self.kafka, self.topics, self.run_dir, WHOLE_RUN_SETTINGS)
        self.config: Config = configuration(self._home)
        patient = self.kafka.model_copy(update={"start_wait_seconds": 60})
        self._refreshers = Refreshers(
            self.nursery, patient, self.topics, self.run_dir, self.config.history
        )
        self._lives: dict[str, Life] = {}
        self._since: dict[str, float] = {}

    def newest(self, level: str) -> Checkpoint:
        return self._at(level).newest()

    def last_steps(self) -> dict[str, int]:
        """Of the checkpoints that are there."""
        return {level: self._at(level).newest_step() for level in LEVELS}

    def histories(self) -> dict[bytes, bytes | None]:
        """What the refresher published, bucket by bucket."""
        return self._refreshers.found()

    def run(self, plan: Plan | None = None, seconds: float = 240) -> None:
        """All processes until every trainer has come to the end of its log.

        They start from the bottom, so that each has to wait for those above it.
        """
        left = {victim: list((plan or {}).get(victim, ())) for victim in VICTIMS}
        deadline = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            for victim in reversed(VICTIMS):
                self._start(victim)
            while not all(self._ended(level) for level in LEVELS):
                assert time.monotonic() < deadline, f"not at the end in {seconds} s: {self.said()}"
                for victim in VICTIMS:
                    if left[victim] and self._due(victim, left[victim][0]):
                        left[victim].pop(0)
                        self._kill(victim)
                time.sleep(WATCH_SECONDS)
            self._stop_refresher()

    def said(self) -> str:
        """The ends of what all processes had to complain of."""
        texts = {level: life.said() for level, life in self._lives.items()}
        texts[REFRESHER] = self._refreshers.said()
        return "\n".join(f"{name}: {text[-2000:]}" for name, text in texts.items())

    def _at(self, level: str) -> Home:
        self._home.level = level
        return self._home

    def _start(self, victim: str) -> None:
        self._since[victim] = time.monotonic()
        if victim == REFRESHER:
            self._refreshers.start()
        elif victim in LEVELS:
            self._lives[victim] = self._at(victim).live()

    def _kill(self, victim: str) -> None:
        """Cut a life short, unless it has come to its end; another one begins at once."""
        if victim == KAFKA:
            self.broker.kill()
            self.broker.restart()
        elif victim == REFRESHER:
            self._refreshers.kill(self._refreshers.workers[-1])
        elif not self._ended(victim):
            self._lives[victim].signal(signal.SIGKILL)
            if self._lives[victim].end() == 0:
                return
        else:
            return
        self.killed[victim] += 1
        self._start(victim)

    def _ended(self, level: str) -> bool:
        status = self._lives[level].status
        assert status in (None, 0, -signal.SIGKILL), f"{level}: {status}\n{self.said()}"
        return status == 0

    def _stop_refresher(self) -> None:
        """Once it is there: it may have been killed a moment ago."""
        worker = self._refreshers.workers[-1]
        eventually(
            lambda: worker.pid in [process.pid for process in running(self.run_dir)],
            SECONDS,
            "a refresher",
        )
        self._refreshers.stop(worker)

    def _due(self, victim: str, kill: Kill) -> bool:
        if kill.when == "start":
            return time.monotonic() - self._since[victim] >= kill.value
        return self._at(victim).reached() >= kill.value

    def _end(self) -> None:
        for life in self._lives.values():
            life.signal(signal.SIGKILL)
        self._refreshers.close()
