"""Configuration of historical embeddings: how many periods are kept, and how they are combined."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from settings import Section

_HOUR_MS = 3_600_000


class HistoryConfig(Section):
    periods: int = Field(3, ge=1, le=64)
    """Periods that the vectors of a user or item are taken from, counting those it was seen in."""
    aggregation: Literal["mean", "recency", "attention"] = "recency"
    """`mean`, `recency`: one vector, combined before it is looked up; `attention`: all of them,
    combined in the model with the other side as the query."""
    half_life: float = Field(1.0, gt=0, le=1e6)
    """With `recency`: periods after which a vector weighs half as much."""
    period_hours: float = Field(720.0, ge=0.001, le=1e6)
    """Event time between two snapshots of TPM's vectors, hours."""
    buckets: int = Field(16, ge=1, le=65_536)
    """Buckets that users, and items, are dealt into: one record each, which must stay below the
    broker's message limit (2 bytes x width x vectors kept, for every entity in it)."""
    versions: int = Field(2, ge=1, le=64)
    """Newest period ends for which the history can be told as it was then."""
    ttl_hours: float = Field(8_760.0, gt=0, le=1e7)
    """Event time after which a user or item that is not seen any more is forgotten, hours."""
    refresh_seconds: float = Field(60.0, gt=0)
    """Wall-clock time between two rounds of refreshing and expiring, seconds."""

    @property
    def aggregated(self) -> bool:
        """Whether vectors are combined before they are looked up."""
        return self.aggregation != "attention"

    @property
    def window(self) -> int:
        """Periods of an entity to remember, so that each of `versions` is over `periods`."""
        return self.periods + self.versions - 1

    @property
    def slots(self) -> int:
        """Vectors a side that the model receives."""
        return 1 if self.aggregated else self.periods

    @property
    def kept(self) -> int:
        """Vectors of an entity on the wire and in the store, so that `slots` of them are
        there as of each of `versions`."""
        return self.slots + self.versions - 1

    @property
    def period_ms(self) -> int:
        return round(self.period_hours * _HOUR_MS)

    @property
    def ttl_ms(self) -> int:
        return round(self.ttl_hours * _HOUR_MS)
