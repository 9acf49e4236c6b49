"""Configuration of `ecdctr monitor`."""

from __future__ import annotations

from pydantic import Field, field_validator

from settings import Section

_YEAR = 31_536_000
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


class MonitorConfig(Section):
    windows_seconds: tuple[int, ...] = (300, 3_600, 86_400)
    """Event-time windows, aligned to 1970-01-01 UTC, each a multiple of the shortest, seconds."""
    lateness_seconds: int = Field(0, ge=0, le=31_536_000)
    """Event time after its end at which a window counts as complete, seconds."""
    generations: int = Field(5, ge=1, le=20)
    """Published versions of each level whose predictions are all held."""
    max_rows: int = Field(4_000_000, ge=1_000)
    """Predictions held a level, 29 bytes each; above it a uniform sample of users is kept."""
    points: int = Field(240, ge=2, le=2_000)
    """Complete windows of each length that are remembered, for charts."""
    checkpoint_every_seconds: float = Field(10.0, gt=0, le=86_400)
    """Wall-clock time between two checkpoints, seconds."""

    @field_validator("windows_seconds")
    @classmethod
    def _multiples(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if not lengths or min(lengths) < 1 or any(n % min(lengths) for n in lengths):
            raise ValueError("each window must be a whole multiple of the shortest, above 0 s")
        if max(lengths) > _YEAR:
            raise ValueError("a window may last a year (31,536,000 s) at most")
        if len(set(lengths)) != len(lengths) or len(lengths) > 5:
            raise ValueError("at most five windows, each given once")
        return tuple(sorted(lengths))

    @property
    def windows_ms(self) -> tuple[int, ...]:
        """Lengths by rising length, ms."""
        return tuple(1_000 * n for n in self.windows_seconds)


def label(window_ms: int) -> str:
    """`5m`, `1h`, `1d`, or seconds where no such unit fits."""
    seconds = window_ms // 1_000
    for unit, size in _UNITS:
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
