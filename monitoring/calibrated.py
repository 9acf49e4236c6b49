"""Which published version is worst calibrated, and since when. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitoring import text
from monitoring.level_quality import Generation

_Z = 1.96  # of a 95 % interval

HEADINGS = (
    "level", "version", "COPC", "± chance", "off by", "published", "predicts since", "until",
    "impressions", "NE", "GAUC",
)  # fmt: skip


@dataclass(frozen=True)
class Calibrated:
    """One generation with how far its COPC is from 1."""

    level: str
    generation: Generation
    chance: float
    """Half of the 95 % interval around 1 for the COPC of a calibrated version; NaN: unknown."""
    off: float
    """Distance of the logarithm of COPC from 0; NaN where COPC is not defined."""
    worst: bool = False
    """Whether it is the worst of its level, and by more than chance."""

    @property
    def beyond_chance(self) -> bool:
        return abs(self.generation.metrics.copc - 1) > self.chance

    @property
    def cells(self) -> tuple[str, ...]:
        """One text for each of HEADINGS."""
        g, m = self.generation, self.generation.metrics
        return (
            self.level,
            str(g.version),
            text.ratio(m.copc),
            text.ratio(self.chance),
            text.UNKNOWN if math.isnan(m.copc) else f"{100 * (m.copc - 1):+.1f}%",
            text.event_time(g.published_at / 1_000 or math.nan),
            text.event_time(g.begin / 1_000 or math.nan),
            text.event_time(g.end / 1_000 or math.nan),
            text.count(m.impressions),
            text.ratio(m.normalized_entropy),
            text.ratio(m.gauc),
        )


def by_calibration(generations: Mapping[str, Sequence[Generation]]) -> list[Calibrated]:
    """All generations of all levels that predicted something, worst first."""
    found = [
        made
        for level, of in generations.items()
        for made in _marked([_calibrated(level, g) for g in of if g.metrics.impressions])
    ]
    return sorted(found, key=_badness, reverse=True)


def sentence(found: Sequence[Calibrated]) -> str:
    """The answer for all levels."""
    worst = [c for c in found if c.worst]
    if not found:
        return "No version has predicted anything yet."
    if not worst:
        return "No version's calibration is off by more than chance."
    return " ".join(
        f"Worst calibrated at {c.level}: version {c.generation.version} "
        f"({c.cells[4]}), predicting since {c.cells[6]}."
        for c in worst
    )


def _calibrated(level: str, generation: Generation) -> Calibrated:
    m = generation.metrics
    clicks = m.ctr * m.impressions
    # Clicks are about Poisson around their sum of probabilities, if those are right.
    chance = _Z / math.sqrt(clicks / m.copc) if m.copc > 0 else math.nan
    off = abs(math.log(m.copc)) if m.copc > 0 else math.inf if m.copc == 0 else math.nan
    return Calibrated(level, generation, chance, off)


def _marked(of: list[Calibrated]) -> list[Calibrated]:
    sure = [c for c in of if c.beyond_chance]
    worst = max(sure, key=_badness, default=None)
    return [Calibrated(c.level, c.generation, c.chance, c.off, worst=c is worst) for c in of]


def _badness(one: Calibrated) -> float:
    return -1.0 if math.isnan(one.off) else one.off
