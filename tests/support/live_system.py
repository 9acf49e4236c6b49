"""The live system: topics that hold a recorded log, and all processes, run for real."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from nursery_support import Life, Nursery
from refresher_process import Refreshers
from trainer_support import Home, Predictions, predictions_of

from config import Config
from settings import flatten
from streaming.import_sinks import TopicSink
from trainers.replay.log import AD, NATURAL, RecordedLog
from trainers.replay.plan import levels

SECONDS = 120.0
"""Longest wait for a trainer's end on a machine with much else to do."""


def send_log(log: RecordedLog, config: Config, first: int = 0, last: int | None = None) -> None:
    """Write the files ``first`` to before ``last`` of both domains to their topics, in the
    records of `ecdctr import --to-kafka`."""
    for domain, topic in ((NATURAL, config.topics.natural), (AD, config.topics.ad)):
        sink = TopicSink(config.kafka, topic, log.schema, append=True)
        for rows in islice(log.stretches((domain,)), first, last):
            sink.write(rows)
        sink.finish()


@dataclass
class LiveSystem:
    """All processes that ``config`` needs, in one run directory."""

    nursery: Nursery
    config: Config
    run_dir: Path
    lives: dict[str, Life] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        kafka, topics = self.config.kafka, self.config.topics
        self.home = Home(self.nursery, kafka, topics, self.run_dir, _toml(self.config))
        self.refreshers = Refreshers(self.nursery, kafka, topics, self.run_dir, self.config.history)

    def start(self, *flags: str, until_end: bool) -> None:
        """From the bottom, so that each has to wait for those above it, if it does."""
        for level in reversed(levels(self.config)):
            self.home.level = level
            self.lives[level] = self.home.live(*flags, until_end=until_end)
        if "tpm" in self.lives and not self.refreshers.workers:
            self.refreshers.start()

    def kill_trainers(self) -> None:
        for life in self.lives.values():
            life.signal(signal.SIGKILL)
            life.end(SECONDS)

    def finish(self) -> Predictions:
        """A-CTR's, once all trainers have come to the log's end."""
        for life in self.lives.values():
            assert life.end(SECONDS) == 0, life.said()
        return predictions_of(self.config.kafka, self.config.topics)

    def steps(self, level: str) -> int:
        """Batches in the newest checkpoint of ``level``."""
        self.home.level = level
        return self.home.newest_step()

    def close(self) -> None:
        self.kill_trainers()
        self.refreshers.close()


def _toml(config: Config) -> str:
    """What was set of ``config``, but for what a `Home` says itself."""
    apart = {"run_dir", "kafka", "topics"}
    flat = flatten(config.model_dump(mode="json", exclude_unset=True, exclude=apart))
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in flat.items())
