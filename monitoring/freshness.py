"""How long it took from an impression's append to Kafka to what was learnt of it. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper bounds, seconds; whatever takes longer comes after the last."""
_ANNOUNCEMENTS = 1_000
_WAITING = 50_000


@dataclass
class Delays:
    """A histogram of seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """A negative delay, of clocks that disagree, is none."""
        seconds = max(0.0, seconds)
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += times
        self.total += seconds * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def copy(self) -> Delays:
        return Delays(list(self.counts), self.total)

    def within(self, share: float) -> float:
        """The least bound that ``share`` of the delays keep; NaN without any, inf above all."""
        if not self.count:
            return float("nan")
        seen = 0
        for bound, count in zip((*BUCKETS, float("inf")), self.counts, strict=True):
            seen += count
            if seen >= share * self.count:
                return bound
        return float("inf")


class Freshness:
    """Append to learnt, and append to published, of one level; one delay a prediction record.

    What a record's batch taught is published with the first version above the record's.
    """

    def __init__(self) -> None:
        self.learnt, self.published = Delays(), Delays()
        self._waiting: dict[tuple[int, int], int] = {}  # (version, appended at, ms) to records
        self._announced: list[tuple[int, int]] = []  # (version, at in ms), rising
        self._forgotten = -1  # greatest version whose announcement is not remembered

    def predicted(self, version: int, appended_at: int, at: int) -> None:
        """A record of ``version`` about impressions appended since ``appended_at``; times in ms."""
        self.learnt.observe((at - appended_at) / 1_000)
        if version < self._forgotten:
            return
        index = bisect.bisect_right(self._announced, (version, 2**62))
        if index < len(self._announced):
            self.published.observe((self._announced[index][1] - appended_at) / 1_000)
        else:
            key = version, appended_at
            self._waiting[key] = self._waiting.get(key, 0) + 1
            if len(self._waiting) > _WAITING:  # nothing is published any more
                del self._waiting[next(iter(self._waiting))]

    def announced(self, version: int, at: int) -> None:
        """``version`` was published at ``at``, ms; one that is not newer changes nothing."""
        if self._announced and version <= self._announced[-1][0]:
            return
        self._announced.append((version, at))
        for key in [key for key in self._waiting if key[0] < version]:
            self.published.observe((at - key[1]) / 1_000, self._waiting.pop(key))
        if len(self._announced) > _ANNOUNCEMENTS:
            self._forgotten = self._announced.pop(0)[0]

    def state(self) -> dict[str, Any]:
        """All there is to know, fit for JSON."""
        return {
            "learnt": [self.learnt.counts, self.learnt.total],
            "published": [self.published.counts, self.published.total],
            "waiting": [[*key, count] for key, count in self._waiting.items()],
            "announced": [list(pair) for pair in self._announced],
            "forgotten": self._forgotten,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Freshness:
        made = cls()
        made.learnt, made.published = Delays(*state["learnt"]), Delays(*state["published"])
        made._waiting = {(v, at): count for v, at, count in state["waiting"]}
        made._announced = _pairs(state["announced"])
        made._forgotten = state["forgotten"]
        return made


def _pairs(lists: Iterable[list[int]]) -> list[tuple[int, int]]:
    return [(version, at) for version, at in lists]
