"""Holds a batch back until what it needs of other levels is there."""

from __future__ import annotations

from collections.abc import Callable

from streaming.impressions import Batch
from trainers.loop import Reader


class AlignedReader:
    """``reader``, whose batches are handed out once ``there(batch, timeout)`` says so.

    Waiting is part of :meth:`next_batch`, so that the loop stays awake: it can be told to
    stop, and joins other ranks' steps meanwhile. A batch that was held back when the
    loop ended was not learnt, and is read again at the next start.
    """

    def __init__(self, reader: Reader, there: Callable[[Batch, float], bool]) -> None:
        self._reader, self._there = reader, there
        self._held: Batch | None = None

    @property
    def finished(self) -> bool:
        return self._held is None and self._reader.finished

    def next_batch(self, timeout: float) -> Batch | None:
        """The next batch; None when there is none, or none ready, within ``timeout`` seconds."""
        if self._held is None:
            self._held = self._reader.next_batch(timeout)
        if self._held is None or not self._there(self._held, timeout):
            return None
        batch, self._held = self._held, None
        return batch
