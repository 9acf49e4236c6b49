"""A-CTR's last window of ads, read back from the log to be learnt once more.

A batch is what the log holds from certain positions on, cut the same at every reading. So
the positions before each batch of the window are all that is kept of it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from streaming.impressions import Batch, Position, Positions
from streaming.log_gap import LogGapError
from streaming.reader import LogReader
from trainers.features import ModelBatch
from trainers.learner import Learner
from trainers.ranks import Ranks


class Before(NamedTuple):
    """Where the log stood before a batch."""

    positions: Positions
    watermark: int  # greatest event time until then, ms

    def plain(self) -> list[Any]:
        """As JSON has it."""
        return [{str(p): [at.offset, at.row] for p, at in self.positions.items()}, self.watermark]

    @staticmethod
    def of(plain: list[Any]) -> Before:
        positions, watermark = plain
        return Before({int(p): Position(*at) for p, at in positions.items()}, watermark)


class LastWindow:
    """Learns batches of the log again, on all ranks together.

    Args:
        reader_at: reads the log from there to its present end.
        ready: a batch as the model takes it; None: an empty one, beside other ranks' full ones.
        alive: told while this lasts.
        told: takes a line for the person who watches.
    """

    def __init__(
        self,
        learner: Learner,
        ranks: Ranks,
        reader_at: Callable[[Before], LogReader],
        ready: Callable[[Batch | None], ModelBatch],
        alive: Callable[[], None],
        told: Callable[[str], None],
    ) -> None:
        self._learner, self._ranks, self._reader_at = learner, ranks, reader_at
        self._ready, self._alive, self._told = ready, alive, told

    def learn(self, window: Sequence[Before], until: Positions) -> int:
        """Learn the batches that began at ``window``, nothing of which lies after ``until``.

        Returns:
            impressions of this rank that were learnt.
        """
        learnt = 0
        batches = itertools.chain(self.batches(window, until), itertools.repeat(None))
        for batch in itertools.islice(batches, max(self._ranks.exchange(len(window)))):
            if batch is None and self._ranks.size == 1:
                break
            self._alive()
            self._learner.step(self._ready(batch))
            learnt += 0 if batch is None else len(batch)
        return learnt

    def batches(self, window: Sequence[Before], until: Positions) -> Generator[Batch, None, None]:
        """The batches that began at ``window``; fewer, and a line that says why, where the log
        does not give them any more."""
        if not window:
            return
        try:
            with closing(self._reader_at(window[0])) as reader:
                for _ in window:
                    batch = self._next(reader)
                    # Nothing may be learnt before it was predicted.
                    if batch is None or _beyond(batch.positions, until):
                        self._told("the log does not give the last window's batches again: left")
                        return
                    yield batch
        except LogGapError as error:
            self._told(f"{error}: what is left of the last window is not learnt again")

    def _next(self, reader: LogReader) -> Batch | None:
        while not reader.finished:
            batch = reader.next_batch(timeout=0.2)
            if batch is not None:
                return batch
            self._alive()
        return None


def _beyond(positions: Positions, until: Positions) -> bool:
    return any(at > until.get(p, Position(0)) for p, at in positions.items())


Kept = list[tuple[int, Before]]


def write_window(kept: Kept, directory: Path, rank: int) -> None:
    """Into a checkpoint's ``directory``."""
    entries = [(watermark, *entry.plain()) for watermark, entry in kept]
    _path(directory, rank).write_text(json.dumps(entries))


def read_window(directory: Path, rank: int) -> Kept:
    """What :func:`write_window` wrote; nothing from a checkpoint of fewer ranks or older."""
    try:
        found = json.loads(_path(directory, rank).read_text())
    except FileNotFoundError:
        return []
    return [(watermark, Before.of(entry)) for watermark, *entry in found]


def _path(directory: Path, rank: int) -> Path:
    return directory / f"last-window-{rank:05d}.json"
