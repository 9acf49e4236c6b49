"""CPM and A-CTR as processes on a market of eight days, and the same computed here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from log_support import drain
from replay_support import MARKET
from trainer_support import Home, records_of

from config import Config
from settings import load
from streaming.connection import KafkaConfig
from streaming.impressions import Batch
from streaming.market import Market
from streaming.market_log import TopicSink, chunks
from streaming.reader import LogReader
from streaming.topic_admin import create_topics
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter
from trainers.delta import DeltaTracker
from trainers.hand_down import HandDown
from trainers.learner import Learner
from trainers.levels import level
from trainers.transfer import (
    Delta,
    accept_deltas,
    apply_delta,
    export_full,
    reinitialize,
    signature,
)

DAY = 86_400_000  # ms

# Fewer rows than users or items: CPM takes changes back, and A-CTR has ids that wait.
HAND_DOWN_SETTINGS = """
[reader]
idle_partition_seconds = 60.0
[actr]
batch_size = 32
metrics_window = 1000
device = "cpu"
threads = 1
align = true
transfer = "{transfer}"
transfer_waiting = 0.5
transfer_relearns = false
[actr.checkpoint]
every_batches = 3
[actr.model]
hidden = [16]
eviction_interval = 4
ids = {{ rows = 32 }}
[cpm]
batch_size = 128
metrics_window = 1000
device = "cpu"
threads = 1
[cpm.checkpoint]
every_batches = 3
"""

Ids = dict[str, list[int]]
"""Domain to its impressions, ascending."""


def send_market(kafka: KafkaConfig, topics: TopicsConfig) -> Ids:
    """Write a market of eight days to the topics of both domains."""
    create_topics(kafka, topics)
    nothing = dict.fromkeys(range(topics.partitions), -1)
    ids: Ids = {"natural": [], "ad": []}
    with RecordWriter(kafka) as writer:
        label = MARKET.fingerprint
        sinks = {name: TopicSink(writer, getattr(topics, name), label, nothing) for name in ids}
        for rows in (pair for slot in Market(MARKET).slots() for pair in chunks(slot, 50)):
            for name, part in zip(ids, rows, strict=True):
                sinks[name].send(part)
                ids[name] += part.column("impression_id").to_pylist()
        writer.flush(60)
    return {name: sorted(found) for name, found in ids.items()}


HANDED_DOWN = re.compile(r"^handed down what was learnt before (\S+): ")
TAKEN_OVER = re.compile(r"^CPM's hand-down of (\S+ \S+): ")


def told(home: Home) -> list[str]:
    """What its lives said in their terminals, in the order of lives."""
    paths = [home.run_dir / f"life-{i + 1}.log.told" for i in range(home.lives)]
    return [line for path in paths if path.exists() for line in path.read_text().splitlines()]


def times(lines: list[str], what: re.Pattern[str]) -> list[str]:
    """The event times in the lines that are ``what``."""
    return [found[1] for line in lines if (found := what.match(line))]


def announced(home: Home) -> list[HandDown]:
    """Every announcement of a hand-down on the topic of CPM's models, repeats included."""
    records = records_of(home.kafka, home.topics.models_of("cpm"))
    return [HandDown.decode(r.value) for r in records if r.key.startswith(b"cpm/")]


# -- the same without processes ----------------------------------------------------------


@dataclass
class Computed:
    """What CPM's and A-CTR's learners come to, batch after batch."""

    learner: Learner
    taken: dict[int, int] = field(default_factory=dict)  # boundary, ms: A-CTR's batches by then
    probability: dict[int, float] = field(default_factory=dict)  # impression id to prediction


def configuration(home: Home) -> Config:
    return load(
        Config,
        home.config_path,
        {},
        [f"run_dir={home.run_dir}", f"kafka.bootstrap_servers={home.kafka.bootstrap_servers}"],
    ).config


def batches_of(config: Config, name: str) -> list[Batch]:
    of = level(name, config)
    reader = LogReader(
        config.kafka,
        of.topic,
        config.impressions,
        batch_size=of.config.batch_size,
        dead_letters=lambda letter: None,
        until_end=True,
        config=config.reader,
    )
    with closing(reader):
        return drain(reader)


TakenBy = Callable[[Learner], object]
"""Has A-CTR's learner take a hand-down over."""


def hand_downs(config: Config, folder: Path) -> Iterator[tuple[int, TakenBy]]:
    """Every day's boundary, ms, and what CPM's learner hands down there."""
    cpm = level("cpm", config)
    learner = Learner(cpm.config, cpm.schema)
    delta = config.actr.transfer == "delta"
    tracker = DeltaTracker(learner) if delta else None
    closed = 0
    for batch in batches_of(config, "cpm"):
        boundary = batch.watermark // DAY * DAY
        if closed and boundary > closed:
            if tracker is not None:
                made = Delta(*tracker.changes(), signature(learner))
                tracker.rebase()
                yield boundary, lambda actr, made=made: apply_delta(actr, made)  # type: ignore[misc]
            else:
                path = folder / str(boundary)
                path.mkdir()
                export_full(learner, path)
                yield boundary, lambda actr, path=path: reinitialize(actr, path)  # type: ignore[misc]
        closed = boundary
        learner.step(learner.to_batch(batch.rows))


def compute(config: Config, folder: Path) -> Computed:
    """A-CTR over its log, each hand-down before the first batch that lies behind it."""
    actr = level("actr", config)
    found = Computed(Learner(actr.config, actr.schema))
    accept_deltas(found.learner, config.actr.transfer_waiting)
    waiting = list(hand_downs(config, folder))
    watermark = 0
    for step, batch in enumerate(batches_of(config, "actr")):
        time_B = batch.rows.column("event_time").to_numpy()
        begin = min(time_B[time_B >= watermark].tolist(), default=0)
        while waiting and waiting[0][0] <= begin:
            boundary, take = waiting.pop(0)
            take(found.learner)
            found.taken[boundary] = step
        probability_B, _ = found.learner.step(found.learner.to_batch(batch.rows))
        ids = batch.rows.column("impression_id").to_pylist()
        found.probability |= dict(zip(ids, np.asarray(probability_B).tolist(), strict=True))
        watermark = batch.watermark
    return found
