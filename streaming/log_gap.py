"""A position that the log does not hold: what to tell the person, and how to go on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from errors import UserError


def instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Gap:
    """Records ``first`` to before ``until`` of a partition are gone."""

    topic: str
    partition: int
    first: int
    until: int
    after_ms: int | None = None
    """Greatest event time read before the gap, ms."""
    before_ms: int | None = None
    """Timestamp of the first record that is left, ms."""

    @property
    def records(self) -> int:
        """Offsets lost; compaction and transactions may have left fewer records in them."""
        return self.until - self.first

    def __str__(self) -> str:
        after = f" after {instant(self.after_ms)}" if self.after_ms else ""
        before = f" before {instant(self.before_ms)}" if self.before_ms else ""
        time = f", written{after}{before}" if after or before else ""
        return (
            f"topic '{self.topic}' partition {self.partition}: offsets {self.first} to "
            f"{self.until - 1} ({self.records} records{time}) are gone"
        )


class LogGapError(UserError):
    """Kafka's retention removed records before they were read."""

    def __init__(self, gaps: list[Gap]) -> None:
        self.gaps = gaps
        super().__init__(
            f"{'; '.join(map(str, gaps))}: Kafka's retention overtook the reader. "
            "To go on without them: --set reader.on_gap=skip; "
            "to keep more: the topic's retention.ms"
        )


class LogTruncatedError(UserError):
    """A position lies beyond the log's end: this is not the log that was read before."""

    def __init__(self, topic: str, partition: int, position: int, end: int | None) -> None:
        where = "beyond the log's end" if end is None else f"beyond the log's end at {end}"
        super().__init__(
            f"topic '{topic}' partition {partition}: position {position} lies {where}: the topic "
            "was made anew or cut. Restore it, or start over in a new run directory (--run-dir)"
        )
