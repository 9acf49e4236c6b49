"""Decides that a partition is silent: the broker has had nothing new for a while."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Watch:
    quiet_since: float | None = None  # earliest time of which nothing new is known
    asked_at: float | None = None  # a time at which the broker named its end...
    asked_end: int = 0  # ...and that end, not yet reached


class Silence:
    """Judges partitions by their end offsets, as the broker names them now and then.

    A partition is quiet as of a moment once everything that its log held at that
    moment was read and nothing usable was among it. It is silent when it has been
    quiet for ``seconds``. A broker that does not answer says nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watches: dict[int, _Watch] = {}

    def heard(self, partition: int) -> None:
        """The partition brought something usable."""
        self._watches.pop(partition, None)

    def reset(self) -> None:
        """The broker was away: nobody could have been heard."""
        self._watches.clear()

    def silent(self, partition: int, position: int, end: int, now: float) -> bool:
        """Whether the partition is silent, given that its log ends at ``end`` now.

        Args:
            position: the offset up to which it was read.
            now: monotonic clock, seconds.
        """
        watch = self._watches.setdefault(partition, _Watch())
        if watch.asked_at is None:
            watch.asked_at, watch.asked_end = now, end
        if position < watch.asked_end:
            return False
        quiet_at, watch.asked_at = watch.asked_at, None
        if watch.quiet_since is None:
            watch.quiet_since = quiet_at
        return quiet_at - watch.quiet_since >= self._seconds
