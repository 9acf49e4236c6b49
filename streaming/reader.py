"""Reads a topic's impressions as batches, ahead of the one who learns from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streaming.connection import KafkaConfig
from streaming.dead_letters import DeadLetter
from streaming.impressions import Batch, ImpressionSchema, Position, Positions
from streaming.log_gap import Gap, LogGapError, LogTruncatedError
from streaming.reader_config import ReaderConfig
from streaming.reader_process import Order, ReaderProcess
from streaming.reader_thread import Assignment, Counts, Finish, Prepare, Shared
from streaming.receiver_thread import ReceiverThread

__all__ = [
    "Counts",
    "Gap",
    "Lag",
    "LogGapError",
    "LogReader",
    "LogTruncatedError",
    "ReaderConfig",
]

_CLOSE_SECONDS = 1.5
DEFAULT_CONFIG = ReaderConfig()


@dataclass(frozen=True)
class Lag:
    """How far the delivered batches are behind the log."""

    records: int
    event_time_seconds: float
    """Between the newest record, as it was known some seconds ago, and the newest impression
    delivered."""


class LogReader:
    """Batches of a topic in the log's order, the same at every reading.

    Rank r of n reads the partitions p with p % n == r. Reading starts at once, in a
    thread or process of its own, and stops ahead of the user by about ``config.prefetch_rows``.
    A broker that goes away is waited for.

    Args:
        start: positions after which to go on, from a checkpoint; None: where
            ``config.begin`` says.
        watermark: greatest event time learnt before ``start``, ms.
        until_end: stop where the log ends now, with a shorter last batch. Otherwise
            read for ever, and a batch that the log cannot fill stays pending.
        dead_letters: takes what cannot be used, in a thread of this process, before any
            position passes it: flush where it writes before saving positions.
        group_id: consumer group for :meth:`commit`; None: do not commit.
        columns: columns that batches are to have, once they are prepared; None: all.
        prepare: makes `Batch.prepared` of batches' rows, where they are read.
        finish: does what is left to do to a batch before it is delivered, in a thread of
            this process.
        process: where to read; None: in a thread of this process. What is read is the
            same. `prepare` is pickled to get there; it is closed with the reader.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topic: str,
        schema: ImpressionSchema,
        *,
        batch_size: int,
        dead_letters: Callable[[DeadLetter], None],
        rank: int = 0,
        world_size: int = 1,
        start: Positions | None = None,
        watermark: int = 0,
        until_end: bool = False,
        group_id: str | None = None,
        config: ReaderConfig = DEFAULT_CONFIG,
        columns: tuple[str, ...] | None = None,
        prepare: Prepare | None = None,
        finish: Finish | None = None,
        process: ReaderProcess | None = None,
    ) -> None:
        self._shared = Shared()
        self._delivered: Positions | None = None
        self._watermark = watermark
        what = Assignment(
            topic, batch_size, rank, world_size, start, watermark, until_end, group_id, columns
        )
        order = Order(kafka, what, schema, config, prepare)
        self._thread = (
            order.thread(dead_letters, self._shared, finish)
            if process is None
            else ReceiverThread(process, order, dead_letters, self._shared, finish)
        )
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """What was read so far, batches not yet delivered included."""
        return self._shared.counts

    @property
    def started_at(self) -> Positions | None:
        """Where reading began; None: that is not known before the first batch."""
        return self._shared.started_at

    @property
    def finished(self) -> bool:
        """Bounded reading is over: every batch was delivered."""
        return self._shared.ended and not self._shared.batches

    def next_batch(self, timeout: float) -> Batch | None:
        """The next batch; None when there is none within ``timeout`` seconds.

        Raises:
            LogGapError: retention removed records that were not read.
            LogTruncatedError: the log ends before the position.
            UserError: no Kafka, no topic, no partition for this rank.
            Exception: whatever else ended the reading.
        """
        shared = self._shared
        with shared.changed:
            shared.changed.wait_for(
                lambda: shared.batches or shared.ended or shared.error or shared.stopping, timeout
            )
            if not shared.batches:
                if shared.error is not None:
                    raise shared.error
                return None
            batch = shared.batches.popleft()
            shared.changed.notify_all()
        self._delivered = batch.positions
        self._watermark = batch.watermark
        return batch

    def lag(self) -> Lag:
        """How far the last delivered batch is behind what the reader knows of the log."""
        shared = self._shared
        reached = self._delivered or shared.started_at or {}
        ends = dict(shared.ends)
        records = sum(max(0, end - reached.get(p, Position(end)).offset) for p, end in ends.items())
        behind = shared.newest_event_time - self._watermark if self._watermark else 0
        return Lag(records, max(0, behind) / 1_000)

    def commit(self, positions: Positions) -> None:
        """Tell lag dashboards how far we are; done later where the log is read, never fatal."""
        self._thread.commit(positions)

    def close(self) -> None:
        """Stop reading; returns within two seconds, whatever the broker does."""
        self._thread.close(_CLOSE_SECONDS)

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
