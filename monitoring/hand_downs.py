"""GAUC before and after each hand-down, for the live view. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Between = Callable[[int, int], float]
"""GAUC of the impressions from one event time to another, ms; NaN where undefined."""

_UNSETTLED = 3  # newest hand-downs around which predictions may still be on their way


@dataclass(frozen=True)
class Effect:
    """One hand-down: GAUC of as much event time before it as after it."""

    boundary: int  # event time, ms
    before: float
    after: float  # NaN until the next hand-down is due


class HandDowns:
    """Notes hand-downs as they are seen, and what became of the GAUC around them.

    The time looked at on each side is what lies between a hand-down and the next.
    """

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._boundaries: list[int] = []
        self._effects: dict[int, Effect] = {}

    def note(self, boundary: int) -> None:
        """The newest hand-down that was taken over, ms; 0: none yet."""
        if boundary > (self._boundaries[-1] if self._boundaries else 0):
            self._boundaries = [*self._boundaries, boundary][-self._most :]

    def effects(self, between: Between) -> tuple[Effect, ...]:
        """Oldest first; the newest one's time after it has still to pass."""
        found = []
        ends = [*self._boundaries[1:], 0][: len(self._boundaries)]
        for begin, end in zip(self._boundaries, ends, strict=True):
            effect = self._effects.get(begin)
            if effect is None:
                effect = self._measure(begin, end, between)
                if begin in self._boundaries[:-_UNSETTLED]:
                    self._effects[begin] = effect
            found.append(effect)
        self._effects = {b: e for b, e in self._effects.items() if b in self._boundaries}
        return tuple(found)

    def _measure(self, begin: int, end: int, between: Between) -> Effect:
        if not end:
            return Effect(begin, math.nan, math.nan)
        span = end - begin
        return Effect(begin, between(begin - span, begin), between(begin, end))


def mean_gain(effects: tuple[Effect, ...]) -> tuple[float, int]:
    """Mean of after minus before over the hand-downs where both are known, and their number."""
    gains = [e.after - e.before for e in effects if not math.isnan(e.after - e.before)]
    return (sum(gains) / len(gains) if gains else math.nan), len(gains)
