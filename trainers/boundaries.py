"""Several of the loop's boundaries as one."""

from __future__ import annotations

from collections.abc import Sequence

from streaming.impressions import Batch
from trainers.loop import Boundary
from trainers.ranks import Ranks


class Boundaries:
    """They act in order, each on all ranks when it is due on any."""

    def __init__(self, boundaries: Sequence[Boundary], ranks: Ranks) -> None:
        self._boundaries, self._ranks = boundaries, ranks
        self._due = self._none = [False] * len(boundaries)

    def due(self, batch: Batch) -> bool:
        self._due = [boundary.due(batch) for boundary in self._boundaries]
        return any(self._due)

    def act(self, batch: Batch | None) -> dict[str, int]:
        due_anywhere = [any(due) for due in zip(*self._ranks.exchange(self._due), strict=True)]
        self._due = self._none  # a rank without a batch is not asked before the next time
        marks: dict[str, int] = {}
        for boundary, due in zip(self._boundaries, due_anywhere, strict=True):
            if due:
                marks |= boundary.act(batch)
        return marks
