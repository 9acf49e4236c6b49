"""How the log is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from settings import Section


class ReaderConfig(Section):
    prefetch_rows: int = Field(65_536, ge=1)
    """Impressions that are read and decoded ahead of the trainer, over all partitions, about."""
    max_poll_records: int = Field(500, ge=1)
    """Most Kafka records taken at once."""
    idle_partition_seconds: float = Field(5.0, gt=0)
    """How long a partition whose end was reached holds the others back, wall clock, seconds."""
    on_gap: Literal["stop", "skip"] = "stop"
    """What to do when retention removed records that were not read: stop, or skip and count."""
    begin: Literal["earliest", "latest"] | Annotated[int, Field(ge=0, le=2**62)] = "earliest"
    """Where to begin without a checkpoint: an end of the log, or a record timestamp, ms."""
    duplicate_window: int = Field(65_536, ge=0)
    """Impressions among which a repeated impression id is noticed and counted; 0: do not look."""
