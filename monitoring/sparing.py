"""Something that is done every so often, for at most a tenth of the time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Sparing:
    """Says when it is due again: ``every_seconds`` later, and nine times what it took."""

    def __init__(self, every_seconds: float = 0.0) -> None:
        self._every, self._due = every_seconds, 0.0

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._due

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Do it inside."""
        begin = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            self._due = end + max(self._every, 9 * (end - begin))
