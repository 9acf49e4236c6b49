"""A level's boundaries of event time: those of its cadence, and some that come besides."""

from __future__ import annotations

from collections.abc import Iterable

from trainers.cadence import Cadence
from trainers.checkpoint import Progress

Marks = dict[str, int]


class Schedule:
    """Boundaries every ``every_ms``, and ``besides``, ms.

    A boundary besides ends what was open like any other and begins something new; where the
    next one of the cadence lies it does not change.
    """

    def __init__(self, every_ms: int, besides: Iterable[int] = ()) -> None:
        self.cadence, self._besides = Cadence(every_ms), tuple(besides)

    def begin(self, watermark_ms: int) -> int:
        """Where a log that starts at ``watermark_ms`` starts counting, ms."""
        return self.cadence.begin(watermark_ms)

    def due(self, closed_ms: int, watermark_ms: int) -> bool:
        """Whether there is a boundary b with ``closed_ms`` < b <= ``watermark_ms``."""
        return bool(self._between(closed_ms, watermark_ms))

    def crossed(self, closed_ms: int, watermark_ms: int) -> list[int]:
        """The boundaries b with ``closed_ms`` < b <= ``watermark_ms``, ascending, ms; to be acted
        on at once, on every rank."""
        return self._between(closed_ms, watermark_ms)

    def _between(self, closed_ms: int, watermark_ms: int) -> list[int]:
        besides = {b for b in self._besides if closed_ms < b <= watermark_ms}
        return sorted(besides.union(self.cadence.crossed(closed_ms, watermark_ms)))

    def marks(self) -> Marks:
        """What a checkpoint has to say of it."""
        return {}

    def accept(self, progress: Progress) -> Marks:
        """Called on every rank when a checkpoint is taken, as of ``progress``; as :meth:`marks`."""
        return self.marks()
