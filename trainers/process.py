"""A trainer's process: reader, learner, publisher, saver and observer around the loop."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry

from config import Config
from errors import UserError
from monitoring.exporter import Exporter
from monitoring.processes import Registration
from monitoring.telemetry import TrainerTelemetry
from monitoring.window import Window
from settings import flatten
from shutdown import stop_event
from streaming.connection import KafkaConfig
from streaming.dead_letters import DeadLetter
from streaming.impressions import Batch
from streaming.kafka_clients import consumer, one_line, resolve
from streaming.reader import LogReader
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.checkpoint import (
    Checkpoint,
    CheckpointStore,
    Progress,
    require_same_shape,
)
from trainers.control import schedule_of
from trainers.features import ModelBatch
from trainers.history_feed import MARK, feed_of
from trainers.host_memory import keep_freed_memory
from trainers.last_window import Before
from trainers.learner import Learner
from trainers.level_transfer import Surroundings, transfer_of
from trainers.levels import Level
from trainers.levels import level as find_level
from trainers.loop import Loop
from trainers.narration import beginning, say
from trainers.observer import Observer
from trainers.periods import snapshots_of
from trainers.publisher import Publisher
from trainers.ranks import Ranks
from trainers.saver import Saved, Saver, Write
from trainers.seen import write_seen
from trainers.state import write_state

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 20.0
"""How long a trainer that was told to stop waits for Kafka to take what it published."""

LINGER_MS = 100
"""How long a prediction waits for others to share its request with."""

# What collectives raise when another rank has ended, by gloo and by NCCL.
_LOST_PEER = re.compile(r"gloo|peer|[Ss]ocket|NCCL|Timed out")


def train(config: Config, name: str, *, until_end: bool = False) -> Progress:
    """Run a level until it is told to stop or, with ``until_end``, until the log ends.

    Raises:
        UserError: whatever the person at the terminal can put right.
    """
    keep_freed_memory()
    kafka = resolve(config.kafka, config.run_dir)
    create_topics(kafka, config.topics)
    level = find_level(name, config)
    _rank_batch(level.config.batch_size, _launched_ranks())  # before ranks meet: all refuse
    with _naming_lost_ranks(), contextlib.ExitStack() as stack:
        trainer = Trainer(config, level, kafka, until_end, stack)
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
    ) -> None:
        self.level, self.schema = level, config.impressions
        self.until_end, self.topics = until_end, config.topics
        self.learner = Learner(level.config, level.schema)
        self.transfer = transfer_of(level, config, self.learner)
        place = self.learner.place
        self.ranks = Ranks(place.rank, place.world_size)
        self.rank_batch = _rank_batch(level.config.batch_size, place.world_size)
        self.shape = _shape(level)
        self.store = CheckpointStore(
            config.run_dir / "checkpoints" / level.name, level.config.checkpoint.keep
        )
        self.window = Window(level.config.metrics_window)
        self.resumed, self.progress = self._resume(kafka, stack)
        self.writer = stack.enter_context(RecordWriter(kafka, linger_ms=LINGER_MS))
        # Up to here a signal ends the process at once; from here on there is order to keep.
        self.stopping = stop_event()
        stack.callback(self._give_up_writing().set)
        self.publisher = Publisher(self.writer, level, self.schema)
        self.saver = Saver(self.store, self.ranks, self.writer.flush, self._saved)
        self.reader = stack.enter_context(self._reader(config, kafka))
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
        around = Surroundings(
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
        if self.transfer is not None:
            self.transfer.begin(around, self.progress)
        self._spare = self.learner.snapshot()  # its memory, made before it holds the loop up
        self.failed: str | None = None
        self._handed_over: list[int] = []

    # -- putting together ---------------------------------------------------------------

    def _resume(
        self, kafka: KafkaConfig, stack: contextlib.ExitStack
    ) -> tuple[Checkpoint | None, Progress]:
        """Rank 0 chooses the checkpoint, all ranks load it."""
        found = self._chosen(kafka, stack)
        if found is None:
            return None, Progress(
                topic=self.level.topic, shape=self.shape, world_size=self.ranks.size
            )
        self.learner.load(found.path)
        if self.transfer is not None:
            self.transfer.load(found.path)
        with contextlib.suppress(FileNotFoundError):  # there may have been fewer ranks then
            self.window = _read_window(found.path, self.ranks.rank, self.window.size)
        log.info("going on from %s, %d impressions", found.path, found.progress.impressions)
        return found, self._own_share(found.progress)

    def _chosen(self, kafka: KafkaConfig, stack: contextlib.ExitStack) -> Checkpoint | None:
        """What rank 0 found to go on from; what is wrong with it is raised on every rank."""
        found, problem = None, None
        if self.ranks.rank == 0:
            try:
                _require_partitions(kafka, self.level.topic, self.ranks.size)
                _own(self.store, stack)
                found = self.store.latest()
                if found is not None:
                    require_same_shape(found, self.shape)
                    _require_same_topic(found, self.level.topic)
            except UserError as error:
                problem = error
        found, problem = self.ranks.gather((found, problem))[0]
        if problem is not None:
            raise problem
        return found

    def _own_share(self, whole: Progress) -> Progress:
        """This rank's part of what a checkpoint says of all ranks.

        Counts are sums: only rank 0 goes on from them. Positions are of the partitions
        that this rank reads: it must not answer for another's, which move on.
        """
        rank, size = self.ranks.rank, self.ranks.size
        return replace(
            whole,
            impressions=whole.impressions if rank == 0 else 0,
            positions={p: at for p, at in whole.positions.items() if p % size == rank},
            world_size=size,
        )

    def _reader(self, config: Config, kafka: KafkaConfig) -> LogReader:
        return LogReader(
            kafka,
            self.level.topic,
            self.schema,
            batch_size=self.rank_batch,
            dead_letters=self._bury,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            start=self.progress.positions if self.resumed else None,
            watermark=self.progress.watermark,
            until_end=self.until_end,
            group_id=f"ecdctr-{self.level.name}",
            config=config.reader,
            prepare=self._prepare,  # beside learning, not before it
        )

    def _reader_again(self, config: Config, kafka: KafkaConfig, before: Before) -> LogReader:
        """From there to the log's present end; its dead letters were sent when it was read."""
        return LogReader(
            kafka,
            self.level.topic,
            self.schema,
            batch_size=self.rank_batch,
            dead_letters=lambda letter: None,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            start=before.positions,
            watermark=before.watermark,
            until_end=True,
            config=config.reader,
            prepare=self._prepare,
        )

    def _observe(self, config: Config, stack: contextlib.ExitStack) -> Observer:
        registry = self.registry = CollectorRegistry()
        telemetry = TrainerTelemetry(registry, self.level.name, self.ranks.rank)
        observer = Observer(telemetry, self.window, self.schema, self.learner, self.reader)
        idle = observer.liveness.idle_seconds
        exporter = stack.enter_context(Exporter(registry, config.monitoring, idle))
        suffix = f"-{self.ranks.rank}" if self.ranks.rank else ""
        name = f"train-{self.level.name}{suffix}"
        stack.enter_context(Registration(config.run_dir, name, exporter.url))
        return observer

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
            if self.resumed is not None and self.ranks.rank == 0:
                # A crash may have come between the rename and the announcement.
                self.publisher.model(self.resumed, {})
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
        return Loop(
            reader=self.transfer.aligned(reader) if self.transfer else reader,
            learn=self.snapshots.watching(self._learn) if self.snapshots else self._learn,
            publish=self.publisher.predictions,
            watcher=self.observer,
            snapshot=self._snapshot,
            saver=self.saver,
            every_batches=self.level.config.checkpoint.every_batches,
            progress=self.progress,
            ranks=self.ranks,
            stopping=self.stopping,
            wait_for_all=self.until_end and self.ranks.size > 1,  # one rank stays awake
            boundary=self.snapshots or self.transfer,
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
        return self._ready(batch)

    def _ready(self, batch: Batch | None) -> ModelBatch:
        rows = self.schema.empty() if batch is None else batch.rows
        made: ModelBatch = self._prepare(rows) if batch is None else batch.prepared
        return self.history.attach(made, rows) if self.history else made

    def _prepare(self, rows: pa.RecordBatch) -> ModelBatch:
        return self.learner.to_batch(rows, self.rank_batch if self.ranks.size > 1 else None)

    def _bury(self, letter: DeadLetter) -> None:
        for value, headers in letter.records():
            self.writer.send(self.topics.dead_letter, value, key=letter.key, headers=headers)

    def _snapshot(self) -> Write:
        # The loop takes a snapshot only when the one before has been written.
        state = self._spare = self.learner.snapshot(self._spare)
        window = self.window.state()
        seen = self.snapshots.state() if self.snapshots else None
        handed = self.transfer.writer() if self.transfer else None
        self._handed_over = self.observer.handed_over()

        def write(directory: Path) -> None:
            write_state(state, directory, self.ranks.saving)
            np.savez(_window_path(directory, self.ranks.rank), **window)  # type: ignore[arg-type]
            if seen is not None:
                write_seen(seen, directory, self.ranks.rank)
            if handed is not None:
                handed(directory)

        return write

    def _saved(self, saved: Saved) -> None:
        """In the saver's thread: announce the model, let the dashboards' offsets follow."""
        self.failed = saved.error
        self.observer.saved(saved, self._handed_over)
        if saved.error is not None:
            return
        self.reader.commit(saved.progress.positions)
        if saved.checkpoint is not None:
            self.publisher.model(saved.checkpoint, self.observer.metrics())


def _own(store: CheckpointStore, stack: contextlib.ExitStack) -> None:
    """Keep every other trainer out of the checkpoints' folder, then clear it of leftovers."""
    try:
        store.directory.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((store.directory / ".lock").open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store.prepare()
    except BlockingIOError:
        raise UserError(
            f"another trainer keeps its checkpoints in {store.directory}; "
            "stop it, or take another --run-dir"
        ) from None
    except OSError as error:
        raise UserError(
            f"{store.directory} cannot hold checkpoints: {error.strerror}; take another --run-dir"
        ) from error


def _require_same_topic(found: Checkpoint, topic: str) -> None:
    """Positions say nothing about another topic."""
    if found.progress.topic != topic:
        raise UserError(
            f"{found.path} learnt from topic '{found.progress.topic}', and now it should be "
            f"'{topic}'; name that one again, or move the checkpoints away to start anew"
        )


def _require_partitions(kafka: KafkaConfig, topic: str, ranks: int) -> None:
    if ranks == 1:
        return
    with contextlib.closing(consumer(kafka)) as client:
        found = len(client.partitions_for_topic(topic) or ())
    if found < ranks:
        raise UserError(
            f"topic '{topic}' has {found} partitions, too few for {ranks} ranks: start fewer ranks"
        )


def _rank_batch(batch_size: int, ranks: int) -> int:
    if batch_size % ranks:
        raise UserError(f"batch_size = {batch_size} cannot be shared by {ranks} ranks evenly")
    return batch_size // ranks


def _shape(level: Level) -> dict[str, Any]:
    """The settings that a state depends on, by their configuration keys."""
    key = "impressions.features"
    features = {
        f"{key}.{f.name}": f"{'multi ' * f.multi}{f.kind}"
        + (f" in table {f.table_name}" if f.sparse else "")
        for f in level.schema.features
    }
    order = {key: [f.name for f in level.schema.features]}
    model = flatten(level.config.model.model_dump(mode="json"), f"{level.name}.model.")
    return order | features | model


def _window_path(directory: Path, rank: int) -> Path:
    return directory / f"window-{rank:05d}.npz"


def _read_window(directory: Path, rank: int, size: int) -> Window:
    with np.load(_window_path(directory, rank)) as state:
        return Window.from_state(state, size)
