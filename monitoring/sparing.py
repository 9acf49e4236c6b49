"""Something that is done every so often, for at most a tenth of a core."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator


class Sparing:
    """Says when it is due again: ``every_seconds`` later, or nine times the processor time that
    it took, but at the latest after ``most_seconds``."""

    def __init__(self, every_seconds: float = 0.0, most_seconds: float = math.inf) -> None:
        self._every, self._most, self._due = every_seconds, most_seconds, 0.0

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._due

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Do it inside."""
        begin = time.thread_time()
        try:
            yield
        finally:
            # Not the time that passed: beside other work that is a multiple.
            rest = min(9 * (time.thread_time() - begin), self._most)
            self._due = time.monotonic() + max(self._every, rest)
