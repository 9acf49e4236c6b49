"""Settings of what is held back to measure forgetting on (no torch is imported here)."""

from __future__ import annotations

from pydantic import Field

from settings import Section

_HOUR_MS = 3_600_000


class ForgettingConfig(Section):
    share: float = Field(0.0, ge=0, lt=1)
    """Share of `user_share`'s impressions that are predicted but never learnt, to measure
    forgetting on; 0: every impression is learnt, and nothing is measured."""
    user_share: float = Field(1.0, gt=0, le=1)
    """Share of the users that impressions are held back of. GAUC needs several of a user in a
    period: with many users, more impressions of fewer users tell more than few of many."""
    period_hours: float = Field(168.0, ge=0.001, le=1e6)
    """Event time that one sample is of, hours."""
    periods: int = Field(8, ge=2, le=32)
    """Past periods whose samples are kept."""
    rows: int = Field(4_096, ge=64, le=1_000_000)
    """Most impressions of a sample, over all ranks; where more are held back, half of the users
    leave the sample."""

    @property
    def period_ms(self) -> int:
        return max(1, round(self.period_hours * _HOUR_MS))
