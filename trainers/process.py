"""A trainer's process: reader, learner, publisher, saver and observer around the loop."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from config import Config
from errors import UserError
from monitoring.exporter import Exporter
from monitoring.processes import Registration
from monitoring.recalled import Recalled
from monitoring.telemetry import TrainerTelemetry
from monitoring.window import Window
from shutdown import stop_event
from streaming.connection import KafkaConfig
from streaming.dead_letters import DeadLetter
from streaming.impressions import Batch
from streaming.kafka_clients import one_line, resolve
from streaming.reader import LogReader
from streaming.reader_process import ReaderProcess
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.boundaries import Boundaries
from trainers.checkpoint import Checkpoint, CheckpointStore, Progress
from trainers.control import schedule_of
from trainers.features import ModelBatch
from trainers.history_feed import MARK, feed_of
from trainers.host_memory import keep_freed_memory
from trainers.host_threads import wake_promptly
from trainers.last_window import Before
from trainers.learner import Learner
from trainers.level_recall import recall_of
from trainers.level_transfer import Surroundings, transfer_of
from trainers.levels import Level
from trainers.levels import level as find_level
from trainers.loop import Boundary, Loop
from trainers.narration import beginning, say
from trainers.observer import Observer
from trainers.periods import snapshots_of
from trainers.publisher import Publisher
from trainers.ranks import Ranks
from trainers.resuming import chosen, shape_of, share_of, shared_batch
from trainers.saver import Saved, Saver, Write
from trainers.seen import write_seen
from trainers.state import write_state

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 20.0
"""How long a trainer that was told to stop waits for Kafka to take what it published."""

# What collectives raise when another rank has ended, by gloo and by NCCL.
_LOST_PEER = re.compile(r"gloo|peer|[Ss]ocket|NCCL|Timed out")


def train(
    config: Config,
    name: str,
    *,
    until_end: bool = False,
    reading: ReaderProcess | None = None,
) -> Progress:
    """Run a level until it is told to stop or, with ``until_end``, until the log ends.

    ``reading``: where the log is read; None: in a thread of this process.

    Raises:
        UserError: whatever the person at the terminal can put right.
    """
    keep_freed_memory()
    wake_promptly()
    kafka = resolve(config.kafka, config.run_dir)
    create_topics(kafka, config.topics)
    level = find_level(name, config)
    shared_batch(level.config.batch_size, _launched_ranks())  # before ranks meet: all refuse
    with _naming_lost_ranks(), contextlib.ExitStack() as stack:
        trainer = Trainer(config, level, kafka, until_end, stack, reading)
        progress = trainer.run()
    if (failed := trainer.failed) is not None:
        raise UserError(
            f"the last checkpoint could not be written ({failed}); what was learnt since the one "
            "before will be learnt again at the next start"
        )
    return progress


def _launched_ranks() -> int:
    """What torchrun says before the ranks have met."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def _naming_lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if _launched_ranks() == 1 or not _LOST_PEER.search(str(error)):
            raise
        raise UserError(
            f"rank {os.environ.get('RANK')} lost another rank ({one_line(error)[:80]}); "
            "what ended that one is in its own output"
        ) from error


class Trainer:
    """Everything that one rank of a level holds; ``stack`` closes it, last opened first."""

    def __init__(
        self,
        config: Config,
        level: Level,
        kafka: KafkaConfig,
        until_end: bool,
        stack: contextlib.ExitStack,
        reading: ReaderProcess | None = None,
    ) -> None:
        self.level, self.schema = level, config.impressions
        self.until_end, self.topics = until_end, config.topics
        self.learner = Learner(level.config, level.schema)
        self.transfer = transfer_of(level, config, self.learner)
        place = self.learner.place
        self.ranks = Ranks(place.rank, place.world_size)
        self.rank_batch = shared_batch(level.config.batch_size, place.world_size)
        self.store = CheckpointStore(
            config.run_dir / "checkpoints" / level.name, level.config.checkpoint.keep
        )
        self.window = Window(level.config.metrics_window)
        self.resumed, self.progress = self._resume(kafka, stack)
        self.registry = CollectorRegistry()
        self.recall = recall_of(level, self.learner, self.ranks, self.registry, self.resumed)
        self.writer = stack.enter_context(RecordWriter(kafka))
        # Up to here a signal ends the process at once; from here on there is order to keep.
        self.stopping = stop_event()
        stack.callback(self._give_up_writing().set)
        self.publisher = Publisher(self.writer, level, self.schema)
        stack.callback(self.publisher.close)
        self.saver = Saver(self.store, self.ranks, self._durable, self._saved)
        self.reader = stack.enter_context(self._reader(config, kafka, reading))
        stack.callback(self.saver.close)
        self.observer = self._observe(config, stack)
        self.schedule = schedule_of(
            level, config, kafka, self.ranks, self.progress, self.saver, self.registry, stack
        )
        self.snapshots = snapshots_of(
            level,
            config.history,
            self.learner,
            self.ranks,
            self.publisher,
            self.registry,
            self.resumed,
            self.schedule,
        )
        since = self.progress.marks.get(MARK, 0)
        self.history = feed_of(level, config, kafka, self.registry, self.ranks.rank, since, stack)
        if self.transfer is not None:
            self.transfer.begin(self._surroundings(config, kafka, stack), self.progress)
        self._spare = self.learner.snapshot()  # its memory, made before it holds the loop up
        self.failed: str | None = None
        self._handed_over: list[int] = []
        self._recalled: Recalled | None = None

    # -- putting together ---------------------------------------------------------------

    def _resume(
        self, kafka: KafkaConfig, stack: contextlib.ExitStack
    ) -> tuple[Checkpoint | None, Progress]:
        """Rank 0 chooses the checkpoint, all ranks load it."""
        found = chosen(self.store, self.level, kafka, self.ranks, stack)
        if found is None:
            return None, Progress(
                topic=self.level.topic, shape=shape_of(self.level), world_size=self.ranks.size
            )
        self.learner.load(found.path)
        if self.transfer is not None:
            self.transfer.load(found.path)
        with contextlib.suppress(FileNotFoundError):  # there may have been fewer ranks then
            self.window = _read_window(found.path, self.ranks.rank, self.window.size)
        log.info("going on from %s, %d impressions", found.path, found.progress.impressions)
        return found, share_of(found.progress, self.ranks)

    def _reader(
        self, config: Config, kafka: KafkaConfig, reading: ReaderProcess | None
    ) -> LogReader:
        return LogReader(
            kafka,
            self.level.topic,
            self.schema,
            dead_letters=self._bury,
            start=self.progress.positions if self.resumed else None,
            watermark=self.progress.watermark,
            until_end=self.until_end,
            group_id=f"ecdctr-{self.level.name}",
            process=reading,
            **self._reading(config),
        )

    def _reader_again(self, config: Config, kafka: KafkaConfig, before: Before) -> LogReader:
        """From there to the log's present end; its dead letters were sent when it was read."""
        return LogReader(
            kafka,
            self.level.topic,
            self.schema,
            dead_letters=lambda letter: None,
            start=before.positions,
            watermark=before.watermark,
            until_end=True,
            **self._reading(config),
        )

    def _reading(self, config: Config) -> dict[str, Any]:
        """How this rank reads; batches are made ready beside learning, not before it."""
        # TPM's snapshots and held-back samples look at the features once more.
        whole = self.level.snapshots or self.recall
        return {
            "columns": None if whole else self.schema.essentials,
            "batch_size": self.rank_batch,
            "rank": self.ranks.rank,
            "world_size": self.ranks.size,
            "config": config.reader,
            "prepare": partial(self.learner.make.arrays, pad_to=self._padded),
            "finish": self._finished,
        }

    def _observe(self, config: Config, stack: contextlib.ExitStack) -> Observer:
        telemetry = TrainerTelemetry(self.registry, self.level.name, self.ranks.rank)
        observer = Observer(telemetry, self.window, self.schema, self.learner, self.reader)
        idle = observer.liveness.idle_seconds
        exporter = stack.enter_context(Exporter(self.registry, config.monitoring, idle))
        suffix = f"-{self.ranks.rank}" if self.ranks.rank else ""
        name = f"train-{self.level.name}{suffix}"
        stack.enter_context(Registration(config.run_dir, name, exporter.url))
        return observer

    def _surroundings(
        self, config: Config, kafka: KafkaConfig, stack: contextlib.ExitStack
    ) -> Surroundings:
        return Surroundings(
            config,
            kafka,
            self.ranks,
            self.writer,
            self.registry,
            start=lambda: self.reader.started_at or {},
            reader_at=lambda before: self._reader_again(config, kafka, before),
            ready=self._ready,
            alive=self.observer.liveness.mark,
            told=self._say,
            schedule=self.schedule,
            stack=stack,
        )

    def _give_up_writing(self) -> threading.Event:
        """Once told to stop, wait only so long for a Kafka that is away."""
        closed = threading.Event()

        def watch() -> None:
            self.stopping.wait()
            if not closed.wait(PATIENCE_SECONDS):
                self.writer.interrupt()

        threading.Thread(target=watch, name="patience", daemon=True).start()
        return closed

    # -- what the loop calls --------------------------------------------------------------

    def run(self) -> Progress:
        """The loop, up to its end.

        Raises:
            UserError: the model diverged, the log cannot be read, or Kafka did not take
                what was published.
        """
        try:
            if self.resumed is not None:
                # A crash may have come between the rename and the announcement.
                recalled = self.recall.recalled() if self.recall else None
                if self.ranks.rank == 0:
                    self.publisher.model(self.resumed, {}, recalled)
            place = self.learner.place
            self._say(
                beginning(
                    self.level.name,
                    self.level.topic,
                    place.device.type,
                    place.world_size,
                    self.progress,
                )
            )
            progress = self._loop().run()
            for sentence in self.observer.conclude(progress):
                self._say(sentence)
            if self.failed is None:
                self.writer.flush()  # the last model's announcement is still under way
            return progress
        finally:
            self.stopping.set()  # a failure, too, waits only so long for Kafka

    def _say(self, words: str) -> None:
        if self.ranks.rank == 0:
            say(words)

    def _loop(self) -> Loop:
        reader = self.history.aligned(self.reader) if self.history else self.reader
        # What is recalled is measured before a hand-down changes it.
        parts: tuple[Boundary | None, ...] = (self.recall, self.snapshots, self.transfer)
        return Loop(
            reader=self.transfer.aligned(reader) if self.transfer else reader,
            learn=self.snapshots.watching(self._learn) if self.snapshots else self._learn,
            publish=self.publisher.predictions,
            flush=self.publisher.flush,
            watcher=self.observer,
            snapshot=self._snapshot,
            saver=self.saver,
            every_batches=self.level.config.checkpoint.every_batches,
            progress=self.progress,
            ranks=self.ranks,
            stopping=self.stopping,
            wait_for_all=self.until_end and self.ranks.size > 1,  # one rank stays awake
            boundary=Boundaries([part for part in parts if part is not None], self.ranks),
            marks=self._marks,
        )

    def _marks(self, progress: Progress) -> dict[str, int]:
        accepted = self.schedule.accept(progress) if self.schedule else {}
        return accepted | (self.history.marks() if self.history else {})

    def _learn(self, batches: Iterator[Batch | None]) -> Iterator[tuple[np.ndarray, float]]:
        return self.learner.steps(map(self._prepared, batches))

    def _prepared(self, batch: Batch | None) -> ModelBatch:
        if self.transfer is not None and batch is not None:
            self.transfer.learning(batch)
        made = self._ready(batch)
        if self.recall is not None and batch is not None:
            self.recall.learning(batch.rows, made)
        return made

    def _ready(self, batch: Batch | None) -> ModelBatch:
        rows = self.schema.empty() if batch is None else batch.rows
        made = self.learner.to_batch(rows, self._padded) if batch is None else batch.prepared
        return self.history.attach(made, rows) if self.history else made

    def _finished(self, batch: Batch) -> Batch:
        made = self.learner.make.of(batch.prepared)
        if self.recall is not None:
            made = self.recall.hold_back(made, batch.rows)
        return replace(batch, prepared=made)

    @property
    def _padded(self) -> int | None:
        """Ranks need batches of one size."""
        return self.rank_batch if self.ranks.size > 1 else None

    def _bury(self, letter: DeadLetter) -> None:
        for value, headers in letter.records():
            self.writer.send(self.topics.dead_letter, value, key=letter.key, headers=headers)

    def _durable(self) -> None:
        """Wait until Kafka has everything that was published so far."""
        self.publisher.settle()
        self.writer.flush()

    def _snapshot(self) -> Write:
        # The loop takes a snapshot only when the one before has been written.
        state = self._spare = self.learner.snapshot(self._spare)
        self.observer.tell()
        window = self.window.state()
        seen = self.snapshots.state() if self.snapshots else None
        handed = self.transfer.writer() if self.transfer else None
        sampled = self.recall.writer() if self.recall else None
        self._handed_over = self.observer.handed_over()
        self._recalled = self.recall.recalled() if self.recall else None

        def write(directory: Path) -> dict[str, str]:
            checksums = write_state(state, directory, self.ranks.saving, direct=True)
            np.savez(_window_path(directory, self.ranks.rank), **window)  # type: ignore[arg-type]
            if seen is not None:
                write_seen(seen, directory, self.ranks.rank)
            for other in (handed, sampled):
                if other is not None:
                    other(directory)
            return checksums

        return write

    def _saved(self, saved: Saved) -> None:
        """In the saver's thread: announce the model, let the dashboards' offsets follow."""
        self.failed = saved.error
        self.observer.saved(saved, self._handed_over)
        if saved.error is not None:
            return
        self.reader.commit(saved.progress.positions)
        if saved.checkpoint is not None:
            self.publisher.model(saved.checkpoint, self.observer.metrics(), self._recalled)


def _window_path(directory: Path, rank: int) -> Path:
    return directory / f"window-{rank:05d}.npz"


def _read_window(directory: Path, rank: int, size: int) -> Window:
    with np.load(_window_path(directory, rank)) as state:
        return Window.from_state(state, size)
