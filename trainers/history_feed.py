"""A trainer's historical embeddings: followed, waited for, looked up and measured."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client import CollectorRegistry

from config import Config
from embeddings.history_follower import HistoryFollower
from embeddings.history_store import HistoryStore
from monitoring.history_telemetry import HistoryTelemetry
from streaming.connection import KafkaConfig
from streaming.impressions import EVENT_TIME, Batch, ImpressionSchema
from streaming.log_gap import instant
from trainers.alignment import AlignedReader
from trainers.cadence import Cadence
from trainers.features import ModelBatch
from trainers.history_inputs import Coverage, attach
from trainers.levels import Level
from trainers.loop import Reader

log = logging.getLogger(__name__)

MARK = "history"
"""What a checkpoint calls the newest complete period that its batches could see, ms."""

MEASURE_SECONDS = 2.0
TELL_SECONDS = 10.0
"""How long a batch is held back before the log says so."""
PATIENCE_SECONDS = 60.0
"""How long a restart waits for history that is not there any more, unless it is aligned."""


class Follower(Protocol):
    """As much of `embeddings.history_follower.HistoryFollower` as a feed needs."""

    @property
    def store(self) -> HistoryStore: ...

    def wait_ready(self, stopping: Callable[[], bool]) -> bool: ...

    def wait_for(self, period_end: int, stopping: Callable[[], bool]) -> bool: ...


class HistoryFeed:
    """Historical embeddings for the batches of one rank.

    Args:
        period_ms: event time between two period ends.
        since: the newest complete period end that the checkpoint's batches could see, ms.
        align: hold every batch back until what is due by its event times is there.
    """

    def __init__(
        self,
        follower: Follower,
        schema: ImpressionSchema,
        telemetry: HistoryTelemetry,
        *,
        period_ms: int,
        since: int,
        align: bool,
    ) -> None:
        self._follower, self._schema, self._telemetry = follower, schema, telemetry
        self._periods = Cadence(period_ms)
        self._since, self._align = since, align
        self._coverage = Coverage()
        self._next_measure = 0.0
        self._held_at: float | None = None  # since when a batch has been held back
        self._told = False
        self._outrun = 0  # look-ups that came too late for what is kept, so far

    # -- waiting ----------------------------------------------------------------------

    def aligned(self, reader: Reader) -> AlignedReader:
        """``reader``, whose batches wait until there is the history that they must have."""
        return AlignedReader(reader, self._there)

    def _there(self, batch: Batch, timeout: float) -> bool:
        started = time.monotonic()

        def over() -> bool:
            return time.monotonic() >= started + timeout

        due = self._due(batch)
        found = self._follower.wait_ready(over) and self._follower.wait_for(due, over)
        now = time.monotonic()
        self._telemetry.waited(now - started)
        self._held_at = None if found else self._held_at or started
        if found:
            self._since, self._told = 0, False
            return True
        self._tell(due, now)
        return False

    def _due(self, batch: Batch) -> int:
        """Every bucket must have reached this period end, ms, before ``batch`` is predicted."""
        if not self._align:
            return self._since
        newest = pc.max(batch.rows.column(EVENT_TIME)).as_py()
        return max(self._since, self._periods.begin(newest))

    def _tell(self, due: int, now: float) -> None:
        assert self._held_at is not None
        waited = now - self._held_at
        if waited > TELL_SECONDS and not self._told:
            self._told = True
            log.warning(
                "waiting for the historical embeddings of the period that ended %s; "
                "are TPM and `ecdctr refresh` running?",
                instant(due),
            )
        if waited > PATIENCE_SECONDS and not self._align and self._since:
            log.warning("going on with older historical embeddings than before the restart")
            self._since = 0

    # -- looking up -------------------------------------------------------------------

    def attach(self, batch: ModelBatch, rows: pa.RecordBatch) -> ModelBatch:
        """``batch``, made of ``rows``, with its history; ask as late as possible."""
        batch = attach(batch, rows, self._follower.store, self._schema)
        self._coverage.add(batch)
        self._note_outrun()
        if rows.num_rows and time.monotonic() >= self._next_measure:
            self._next_measure = time.monotonic() + MEASURE_SECONDS
            self._telemetry.known(self._coverage.take())
            newest = pc.max(rows.column(EVENT_TIME)).as_py()
            self._telemetry.age(newest, self._follower.store.complete_period_end)
        return batch

    def _note_outrun(self) -> None:
        outrun = self._follower.store.outrun
        if outrun and not self._outrun:
            log.warning(
                "some historical embeddings that were due are not kept any more: TPM is too far "
                "ahead; raise history.versions, or predictions depend on how far"
            )
        self._telemetry.outrun(outrun - self._outrun)
        self._outrun = outrun

    def marks(self) -> dict[str, int]:
        """What a checkpoint taken now says of the history."""
        return {MARK: self._follower.store.complete_period_end}


def feed_of(
    level: Level,
    config: Config,
    kafka: KafkaConfig,
    registry: CollectorRegistry,
    rank: int,
    since: int,
    stack: contextlib.ExitStack,
) -> HistoryFeed | None:
    """Start following for ``level`` until ``stack`` closes; None when it reads no history.

    ``since`` is what the checkpoint says under :data:`MARK`, 0 without one.
    """
    if not level.config.history:
        return None
    store = HistoryStore.of(config.history, level.config.model.history_width)
    file = config.run_dir / "history" / f"{level.name}-{rank:05d}.npz"
    follower = HistoryFollower(kafka, config.topics.historical, store, file)
    stack.callback(follower.close)
    follower.start()
    return HistoryFeed(
        follower,
        config.impressions,
        HistoryTelemetry(registry, level.name, rank),
        period_ms=config.history.period_ms,
        since=since,
        align=level.config.align,
    )
