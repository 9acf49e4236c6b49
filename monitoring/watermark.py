"""Up to where in event time nothing more is to come, of a topic with several partitions. Pure."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

NEVER = -(2**62)


class Watermark:
    """Follows the greatest event time of each partition; never goes back.

    A partition that holds more than was read of it holds the watermark back to its own
    greatest event time; one that was read to its end does not.
    """

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}
        self.value = NEVER
        """ms; NEVER: nothing is known yet."""

    @property
    def newest(self) -> int:
        """Greatest event time of all partitions, ms; 0: none."""
        return max(self._newest.values(), default=0)

    def note(self, partition: int, event_time_N: NDArray[np.int64]) -> None:
        """Event times read of a partition, at least one, ms."""
        newest = int(event_time_N.max())
        self._newest[partition] = max(newest, self._newest.get(partition, newest))

    def advance(self, behind: Collection[int] = ()) -> int:
        """Go on, held back by the partitions ``behind``; the watermark."""
        held_back = [self._newest.get(partition, NEVER) for partition in behind]
        reached = min(held_back) if held_back else max(self._newest.values(), default=NEVER)
        self.value = max(self.value, reached)
        return self.value

    def state(self) -> list[list[int]]:
        """All there is to know, fit for JSON."""
        return [[-1, self.value], *(list(pair) for pair in sorted(self._newest.items()))]

    @classmethod
    def from_state(cls, state: list[list[int]]) -> Watermark:
        made = cls()
        (_, made.value), *newest = state
        made._newest = {pair[0]: pair[1] for pair in newest}
        return made
