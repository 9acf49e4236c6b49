"""Writing checkpoints while the loop goes on.

The loop hands over a copy of its state and is held up for the copying only. A
thread of this class then makes what was published so far durable, writes, seals
and announces. A checkpoint that fails is logged and counted; the one before stays
current and the next one is tried when it is due.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from trainers.checkpoint import Checkpoint, CheckpointStore, Progress
from trainers.ranks import Ranks

log = logging.getLogger(__name__)

T = TypeVar("T")
Write = Callable[[Path], Mapping[str, str]]
"""Writes into a directory; returns checksums that it took of files there, see `checkpoint.seal`."""


class SaveError(Exception):
    """Some rank could not do its part of a checkpoint."""


@dataclass(frozen=True)
class Saved:
    """What became of one checkpoint."""

    progress: Progress
    seconds: float  # from hand-over to current
    checkpoint: Checkpoint | None  # None on ranks other than 0, and on failure
    error: str | None


class Saver:
    """Writes one checkpoint at a time in the background.

    ``durable`` returns once everything published before the call is safe (it
    flushes producers); ``done`` is told of every outcome, in the saving thread.
    """

    def __init__(
        self,
        store: CheckpointStore,
        ranks: Ranks,
        durable: Callable[[], None],
        done: Callable[[Saved], None],
    ) -> None:
        self._store = store
        self._ranks = ranks
        self._durable = durable
        self._done = done
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._pending: Future[Saved] | None = None
        self.on_disk: Progress | None = None
        """Of the newest checkpoint that was written, by all ranks."""

    @property
    def idle(self) -> bool:
        return self._pending is None or self._pending.done()

    def save(self, progress: Progress, write: Write) -> None:
        """Start writing; ``write(directory)`` must only touch copies of the live state."""
        self.wait()
        self._pending = self._thread.submit(self._run, progress, write)

    def wait(self) -> Saved | None:
        """The outcome of the last checkpoint, when it is known."""
        return self._pending.result() if self._pending is not None else None

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _run(self, progress: Progress, write: Write) -> Saved:
        started = time.monotonic()
        checkpoint, error = None, None
        try:
            checkpoint = self._write(progress, write)
            self.on_disk = progress
        except Exception as failure:  # whatever went wrong, the loop must go on
            error = _one_line(failure)
            log.error("checkpoint at step %d failed: %s", progress.step, error)
        saved = Saved(progress, time.monotonic() - started, checkpoint, error)
        self._done(saved)
        return saved

    def _write(self, progress: Progress, write: Write) -> Checkpoint | None:
        self._together(self._durable)
        writing = self._store.directory / f".writing-{progress.step:012d}"
        self._together(lambda: self._lead(lambda: self._store.begin(progress.step)))
        try:
            taken = self._together(lambda: write(writing))
            checksums = {n: c for share in self._ranks.gather(taken) for n, c in share.items()}
            positions = {
                p: at for share in self._ranks.gather(progress.positions) for p, at in share.items()
            }
            impressions = sum(self._ranks.gather(progress.impressions))
            watermark = max(self._ranks.gather(progress.watermark))
            whole = replace(
                progress, positions=positions, impressions=impressions, watermark=watermark
            )
            return self._together(
                lambda: self._lead(lambda: self._store.commit(writing, whole, checksums))
            )
        except Exception:
            self._lead(lambda: self._store.discard(writing))
            raise

    def _lead(self, action: Callable[[], T]) -> T | None:
        return action() if self._ranks.rank == 0 else None

    def _together(self, action: Callable[[], T]) -> T:
        """Run on every rank; a failure anywhere is a failure everywhere."""
        try:
            result, error = action(), None
        except Exception as failure:
            error = _one_line(failure)
        errors = [e for e in self._ranks.gather(error) if e is not None]
        if errors:
            raise SaveError("; ".join(errors))
        return result


def _one_line(failure: Exception) -> str:
    """What went wrong, without the stacks that libraries put into their messages."""
    if isinstance(failure, SaveError):
        return str(failure)
    words = str(failure).strip() or type(failure).__name__
    return words.splitlines()[0][:400]
