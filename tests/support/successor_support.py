"""A-CTR's lives over a log in memory, with the real loop, learners, hand-downs and checkpoints."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry
from synthetic_stream import impressions

from config import Config
from streaming.impressions import EVENT_TIME, Batch, Position, SourceRows
from trainers.checkpoint import CheckpointStore, Progress, seal
from trainers.hand_down import HandDown
from trainers.last_window import Before
from trainers.learner import Learner
from trainers.level_transfer import LevelTransfer, Surroundings
from trainers.levels import level
from trainers.loop import Loop
from trainers.ranks import Ranks
from trainers.saver import Saver, Write
from trainers.state import write_state
from trainers.take_over import Announced
from trainers.transfer import export_full

SIZE = 32
WINDOW_MS = 1_000
STEP_MS = 100  # a batch: ten make a window
FIRST_MS = 10_000


def configuration(**actr: object) -> Config:
    model = {"hidden": [16], "eviction_interval": 4, "ids": {"rows": 64}}
    level = {"batch_size": SIZE, "device": "cpu", "threads": 1}
    settings = {"transfer": "reinitialize", "model": model} | level | actr
    cpm = level | {"hand_down_hours": WINDOW_MS / 3_600_000}
    return Config.model_validate({"actr": settings, "cpm": cpm})


def ads(count: int) -> list[Batch]:
    """Batches of a log with one partition, a record an impression."""
    made = []
    for i in range(count):
        rows = impressions(100 + i, SIZE)
        time_B = FIRST_MS + i * STEP_MS + np.arange(SIZE)
        at = rows.schema.get_field_index(EVENT_TIME)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(time_B))
        source = SourceRows(*[np.zeros(SIZE, np.int64)] * 3)
        made.append(Batch(rows, source, {0: Position((i + 1) * SIZE)}, int(time_B.max())))
    return made


def whole_models(folder: Path, *boundaries: int) -> dict[int, HandDown]:
    """CPM's model at each boundary, ms, in files."""
    cpm = level("cpm", configuration())
    learner, made = Learner(cpm.config, cpm.schema), {}
    for i, boundary in enumerate(boundaries):
        for seed in range(5 * i, 5 * i + 5):
            learner.step(learner.to_batch(impressions(seed, SIZE)))
        place = folder / str(boundary)
        place.mkdir()
        export_full(learner, place)
        seal(place, Progress())
        made[boundary] = HandDown(boundary, "full", location=str(place))
    return made


class Listed:
    """Reads ``log`` from a position on, which may be cut at another place than before."""

    def __init__(self, log: Sequence[Batch], before: Before | None = None) -> None:
        begin = before.positions[0].offset // SIZE if before and before.positions else 0
        self.left, self.closed = list(log[begin:]), False

    @property
    def finished(self) -> bool:
        return not self.left

    def next_batch(self, timeout: float) -> Batch | None:
        return self.left.pop(0) if self.left else None

    def close(self) -> None:
        self.closed = True


class Killed(Exception):
    """Ends a life at once."""


class Patient(Saver):
    """Holds the loop up until a checkpoint is written, so that each is there when it is due."""

    def save(self, progress: Progress, write: Write) -> None:
        super().save(progress, write)
        self.wait()


class Follower:
    """Knows at once what was announced; put in the place of the one that reads Kafka."""

    hand_downs: Sequence[HandDown] = ()

    def __init__(self, kafka: object, topic: str, name: str, announced: Announced) -> None:
        for hand_down in self.hand_downs:
            announced.put(hand_down)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Life:
    """A trainer's life on a folder that outlives it.

    Args:
        lost: whether the log does not give the batches before a position again.
    """

    def __init__(
        self,
        folder: Path,
        log: Sequence[Batch],
        *,
        every: int = 1_000,
        ranks: Ranks | None = None,
        **actr: object,
    ) -> None:
        config, self.log = configuration(**actr), log
        of = level("actr", config)
        self.ranks = ranks or Ranks()
        self.learner = Learner(of.config, of.schema)
        self.transfer = LevelTransfer(of, config, self.learner)
        self.store = CheckpointStore(folder, keep=1_000)
        self.store.prepare()
        self.progress, self.every = Progress(topic="t"), every
        found = self.store.latest()
        if found is not None:
            self.progress = found.progress
            self.learner.load(found.path)
            self.transfer.load(found.path)
        self.registry = CollectorRegistry()
        self.told: list[str] = []
        self.probability: dict[int, bytes] = {}  # batch to its predictions
        self.left: list[float] = []  # at each batch, batches until the take-over
        self.readers: list[Listed] = []
        self._config = config

    def run(self, kill_at: int | None = None) -> Life:
        """To the log's end, or until the predictions of batch ``kill_at`` were made."""
        with contextlib.ExitStack() as stack:
            self.transfer.begin(self._around(stack), self.progress)
            saver = Patient(self.store, self.ranks, lambda: None, lambda saved: None)
            stack.callback(saver.close)

            def publish(batch: Batch, probability_B: np.ndarray, step: int) -> None:
                self.probability[step] = probability_B.tobytes()
                left = self.registry.get_sample_value(
                    "ecdctr_hand_down_batches_left", {"level": "actr", "rank": "0"}
                )
                self.left.append(left or 0)
                if step == kill_at:
                    raise Killed

            positions = self.progress.positions
            loop = Loop(
                reader=Listed(self.log, Before(positions, 0)),
                learn=self._learn,
                publish=publish,
                watcher=_Nobody(),
                snapshot=self._snapshot,
                saver=saver,
                every_batches=self.every,
                progress=self.progress,
                ranks=self.ranks,
                stopping=threading.Event(),
                boundary=self.transfer,
            )
            with contextlib.suppress(Killed):
                self.progress = loop.run()
        return self

    def _around(self, stack: contextlib.ExitStack) -> Surroundings:
        return Surroundings(
            self._config,
            None,  # type: ignore[arg-type]
            self.ranks,
            None,  # type: ignore[arg-type]
            self.registry,
            start=lambda: {0: Position(0)},
            reader_at=self._reader_at,  # type: ignore[arg-type]
            ready=lambda batch: self.learner.to_batch((batch or self.log[0]).rows),
            alive=lambda: None,
            told=self.told.append,
            schedule=None,
            stack=stack,
        )

    def _reader_at(self, before: Before) -> Listed:
        self.readers.append(Listed(self.log, before))
        return self.readers[-1]

    def _learn(self, batches: Iterator[Batch | None]) -> Iterator[tuple[np.ndarray, float]]:
        for batch in batches:
            assert batch is not None
            self.transfer.learning(batch)
            yield self.learner.step(self.learner.to_batch(batch.rows))

    def _snapshot(self) -> Write:
        state, handed = self.learner.snapshot(), self.transfer.writer()

        def write(directory: Path) -> dict[str, str]:
            checksums = write_state(state, directory)
            handed(directory)
            return checksums

        return write


class _Nobody:
    def learnt(self, *_: object) -> None: ...

    def turn(self, progress: Progress) -> None: ...

    def stalled(self, seconds: float) -> None: ...
