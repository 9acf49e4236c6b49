"""Hand-downs in a trainer's process: CPM's are announced, A-CTR's are followed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from config import Config
from monitoring.hand_down_telemetry import HandDownTelemetry
from streaming.connection import KafkaConfig
from streaming.impressions import Batch, Positions
from streaming.log_gap import instant
from streaming.reader import LogReader
from streaming.writer import RecordWriter
from trainers.alignment import AlignedReader
from trainers.checkpoint import Progress
from trainers.delta import DeltaTracker
from trainers.features import ModelBatch
from trainers.hand_down import HANDED, HandDown, HandDowns, HandDownStore
from trainers.hand_down_topic import Announcer, follow
from trainers.last_window import Before, LastWindow, read_window, write_window
from trainers.learner import Learner
from trainers.levels import Level
from trainers.loop import Boundary, Reader
from trainers.ranks import Ranks
from trainers.relearning import Relearning
from trainers.schedule import Schedule
from trainers.successor import Preparation, Successor, read_preparation, write_preparation
from trainers.take_over import Announced, TakeOver
from trainers.transfer import accept_deltas

SUBDIRECTORY = "handdowns"


@dataclass(frozen=True)
class Surroundings:
    """What of its process a level's transfer uses."""

    config: Config
    kafka: KafkaConfig
    ranks: Ranks
    writer: RecordWriter
    registry: CollectorRegistry
    start: Callable[[], Positions]  # where the log was entered
    reader_at: Callable[[Before], LogReader]
    ready: Callable[[Batch | None], ModelBatch]
    alive: Callable[[], None]
    told: Callable[[str], None]  # takes a line for the person who watches
    schedule: Schedule | None  # when CPM hands down
    stack: contextlib.ExitStack  # closes what is opened


class LevelTransfer:
    """One level's part in the transfer from CPM to A-CTR; the loop's `Boundary`.

    Make it before the learner takes its first step or loads a checkpoint.
    """

    def __init__(self, level: Level, config: Config, learner: Learner) -> None:
        self._level, self._learner = level, learner
        self._whole = config.actr.transfer == "reinitialize" or config.cpm.mode == "scratch"
        self._tracker = None
        self._again = Relearning[Before](config, self._learn_again)
        self._before: Before | None = None  # of the next batch
        self._successor: Successor | None = None
        self._prepared: Preparation | None = None  # by the life before
        if level.name == "cpm" and not self._whole:
            self._tracker = DeltaTracker(learner)
        if level.name == "actr":
            accept_deltas(learner, config.actr.transfer_waiting)

    def load(self, directory: Path) -> None:
        """Go on from a checkpoint, after the learner did."""
        self._again.kept.extend(read_window(directory, self._learner.place.rank))
        self._prepared = read_preparation(directory)
        if self._tracker is not None:
            self._tracker.load(directory)

    def begin(self, around: Surroundings, progress: Progress) -> None:
        """Open what the loop will need."""
        name, rank = self._level.name, around.ranks.rank
        self._telemetry = HandDownTelemetry(around.registry, name, rank)
        self._handed = progress.marks.get(HANDED, 0)
        if self._handed:
            self._telemetry.going_on(self._handed)
        self._aligned: Callable[[Reader], Reader] = lambda reader: reader
        if name == "cpm":
            self._boundary: Boundary = self._hand_downs(around, progress)
        else:
            self._boundary = self._take_over(around, progress)

    def _hand_downs(self, around: Surroundings, progress: Progress) -> HandDowns:
        cpm = around.config.cpm
        directory = around.config.run_dir / SUBDIRECTORY / self._level.name
        store = HandDownStore(directory, cpm.keep_hand_downs)
        if around.ranks.rank == 0:
            store.prepare()
        announcer = Announcer(around.writer, self._level.models, self._level.name)

        def announce(hand_down: HandDown) -> None:
            announcer.announce(hand_down)
            if hand_down.kind != "begin":
                self._telemetry.made(hand_down.size)
                around.told(
                    f"handed down what was learnt before {instant(hand_down.boundary)}: "
                    f"{hand_down.kind}, {hand_down.size / 2**20:.2f} MiB"
                )

        return HandDowns(
            self._learner,
            self._tracker,
            store,
            around.schedule or Schedule(cpm.cadence_ms),
            around.ranks,
            announce,
            announcer.forget,
            afresh=cpm.mode == "scratch",
            progress=progress,
        )

    def _take_over(self, around: Surroundings, progress: Progress) -> TakeOver:
        config, announced = around.config, Announced()
        self._start = around.start
        if progress.positions:
            self._before = Before(progress.positions, progress.watermark)
        self._last_window = LastWindow(
            self._learner, around.ranks, around.reader_at, around.ready, around.alive, around.told
        )
        self._successor = self._beside(around)
        topic = config.topics.models_of("cpm")
        around.stack.enter_context(follow(around.kafka, topic, "cpm", announced))
        boundary = TakeOver(
            self._learner,
            config.actr,
            announced,
            config.cpm.cadence_ms,
            around.ranks,
            around.told,
            progress,
            self._again.again,
            self._successor,
        )
        if config.actr.align:
            self._aligned = lambda reader: AlignedReader(reader, boundary.there)
        return boundary

    def _beside(self, around: Surroundings) -> Successor | None:
        actr = around.config.actr
        if not actr.beside:
            return None
        if around.ranks.size > 1:
            around.told(
                "several ranks: the stream waits while the last window is learnt again "
                "(actr.transfer_beside needs one rank)"
            )
            return None
        made = Successor(
            self._learner,
            actr.catch_up_batches,
            not actr.transfer_resets_batch_norm,
            window=lambda: [batch for _, batch in self._again.kept],
            read_back=lambda batches: self._last_window.batches(batches, self._learnt_until()),
            ready=around.ready,
            alive=around.alive,
            told=around.told,
            resumed=self._prepared,
        )
        around.stack.callback(made.close)
        return made

    def _learnt_until(self) -> Positions:
        return self._before.positions if self._before else {}

    # -- what the loop calls --------------------------------------------------------------

    def aligned(self, reader: Reader) -> Reader:
        """``reader``, whose batches wait for the hand-down that is due, if they are to."""
        return self._aligned(reader)

    def due(self, batch: Batch) -> bool:
        return self._boundary.due(batch)

    def act(self, batch: Batch | None) -> dict[str, int]:
        started = time.perf_counter()
        marks = self._boundary.act(batch)
        if self._successor is not None:
            self._telemetry.preparing(self._successor.left)
        if marks[HANDED] != self._handed:
            self._handed = marks[HANDED]
            self._telemetry.done(self._handed, time.perf_counter() - started)
        return marks

    def learning(self, batch: Batch) -> None:
        """``batch`` is learnt next."""
        if self._level.name != "actr":
            return
        before = self._before or Before(self._start(), 0)
        self._again.keep(before, batch.watermark)
        if self._successor is not None:
            self._successor.live(before)
        self._before = Before(batch.positions, batch.watermark)

    def _learn_again(self, window: Sequence[Before]) -> int:
        return self._last_window.learn(window, self._learnt_until())

    def writer(self) -> Callable[[Path], None]:
        """Writes what a checkpoint must hold besides the learner, as it is now."""
        tracker, window = self._tracker, list(self._again.kept)
        touched = None if tracker is None else tracker.state()
        preparation = None if self._successor is None else self._successor.preparation

        def write(directory: Path) -> None:
            if tracker is not None and touched is not None:
                tracker.write(touched, directory)
            if window:
                write_window(window, directory, self._learner.place.rank)
            if preparation is not None:
                write_preparation(preparation, directory)

        return write


def transfer_of(level: Level, config: Config, learner: Learner) -> LevelTransfer | None:
    """None: the level hands nothing down and takes nothing over."""
    if level.name == "cpm" or (level.name == "actr" and config.actr.transfer != "none"):
        return LevelTransfer(level, config, learner)
    return None
