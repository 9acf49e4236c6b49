"""An early boundary, where somebody asked for one.

A request comes at any moment, and a trainer that is killed must do the same again. So a request
is accepted only when a checkpoint is taken, which says at which event time it will be obeyed;
and it is obeyed only once that checkpoint is on disk. Whoever is killed before has done nothing
yet, and accepts it anew; whoever is killed afterwards finds that event time in the checkpoint.

No list of requests obeyed is needed: a boundary at or after an alarm's event time answers it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum

from streaming.control import Request
from trainers.checkpoint import Progress
from trainers.ranks import Ranks
from trainers.schedule import Marks, Schedule

EARLY = "early"
"""In a level's marks: the newest early boundary that was accepted, ms."""

_HOUR_MS = 3_600_000


class Outcome(StrEnum):
    """What became of a request: a metric label, so a fixed set."""

    TAKEN = "taken"
    """There will be an early boundary."""
    ANSWERED = "answered"
    """A boundary at or after the alarm was there, or the next scheduled one comes as soon; so
    is a request that is repeated, or read again after a restart."""
    REFUSED = "refused"
    """The level cannot do it."""
    TOO_SOON = "too-soon"
    """The last early boundary is too near."""
    POSTPONED = "postponed"
    """Its checkpoint could not be written; it is accepted anew with another."""


MOST_WAITING = 1_000


class Inbox:
    """Requests that are waiting; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Request] = {}

    def put(self, request: Request) -> None:
        """Raises ValueError: too many are waiting."""
        with self._lock:
            if len(self._waiting) >= MOST_WAITING and request.id not in self._waiting:
                raise ValueError(f"{MOST_WAITING} requests are waiting already")
            self._waiting[request.id] = request

    def waiting(self) -> list[Request]:
        """By the event time of the alarm."""
        with self._lock:
            return sorted(self._waiting.values(), key=lambda request: (request.at, request.id))

    def drop(self, request: Request) -> None:
        with self._lock:
            self._waiting.pop(request.id, None)


class EarlySchedule(Schedule):
    """A schedule that obeys requests.

    Args:
        closed: what the level's marks call the newest boundary behind it.
        inbox: the requests; rank 0's are obeyed.
        on_disk: waits for the checkpoint under way; the early boundary that the newest
            checkpoint on disk has in its marks, 0: none. The same on every rank.
        told: takes every outcome on rank 0, with the early boundary, ms, where there is one.
        refusal: why there can be no early boundary; empty: there can.
        marks: the level's, from its checkpoint.
        gap_ms: least event time between two early boundaries.
    """

    def __init__(
        self,
        every_ms: int,
        closed: str,
        ranks: Ranks,
        inbox: Inbox,
        on_disk: Callable[[], int],
        told: Callable[[Outcome, Request, int], None],
        refusal: str = "",
        marks: Marks | None = None,
        gap_ms: int = 0,
    ) -> None:
        super().__init__(every_ms)
        self._closed, self._ranks, self._inbox, self._on_disk = closed, ranks, inbox, on_disk
        self._told, self._gap_ms, self._refusal = told, gap_ms, refusal
        self._step_ms = max(1, min(_HOUR_MS, every_ms // 24))
        self._request: Request | None = None  # that the accepted boundary answers
        self._set((marks or {}).get(EARLY))

    def _set(self, boundary: int | None) -> None:
        """None: none was ever accepted; 0: that one was given up."""
        self._at = boundary
        self._besides = (boundary,) if boundary else ()

    def marks(self) -> Marks:
        return {} if self._at is None else {EARLY: self._at}

    def crossed(self, closed_ms: int, watermark_ms: int) -> list[int]:
        if self._at and closed_ms < self._at <= watermark_ms and self._on_disk() != self._at:
            self._postpone()
        return super().crossed(closed_ms, watermark_ms)

    def _postpone(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            self._told(Outcome.POSTPONED, request, 0)
            self._inbox.put(request)
        self._set(0)

    def accept(self, progress: Progress) -> Marks:
        closed = progress.marks.get(self._closed, 0)
        if closed:  # or the log has not begun
            watermark = max(self._ranks.exchange(progress.watermark))
            self._set(self._ranks.exchange(self._chosen(closed, watermark))[0])
        return self.marks()

    def _chosen(self, closed: int, watermark: int) -> int | None:
        """The early boundary to come, or the last one, ms; None: there never was one."""
        chosen = self._at
        boundary, pending = self._after(watermark), chosen is not None and chosen > closed
        for request in self._inbox.waiting():
            if request.at > watermark:
                break  # of what has not come yet nobody can know
            if request.at <= closed or pending:
                outcome, told = Outcome.ANSWERED, 0
            elif self._refusal:
                outcome, told = Outcome.REFUSED, 0
            elif boundary >= self._next(watermark):
                outcome, told = Outcome.ANSWERED, self._next(watermark)
            elif chosen and boundary - chosen < self._gap_ms:
                outcome, told = Outcome.TOO_SOON, chosen
            else:
                pending = True
                outcome, told = Outcome.TAKEN, boundary
                chosen, self._request = boundary, request
            self._inbox.drop(request)
            self._told(outcome, request, told)
        return chosen

    def _after(self, ms: int) -> int:
        """The next whole hour, or 24th of the cadence, after ``ms``."""
        return (ms // self._step_ms + 1) * self._step_ms

    def _next(self, watermark: int) -> int:
        """The next boundary of the cadence, ms."""
        return self.begin(watermark) + self.cadence.every_ms
