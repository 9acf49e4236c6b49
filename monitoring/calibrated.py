"""Which published version is worst calibrated, and since when. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from monitoring import text
from monitoring.level_quality import Generation

ENOUGH = 1_000
"""Predictions with which a version is judged at all; the dashboards' panel says the same."""
_Z = 1.96  # of a 95 % interval

EXPLAINED = (
    "Farthest from 1 by the ratio, so 0.5 is as far as 2. COPC within 1 ± chance is what a "
    "calibrated version shows in 95 of 100 cases: the worst is the first that is off by more, of "
    f"those published with {ENOUGH:,} predictions. Version 0 is what was predicted before any was."
)
"""The order of a table, and why the first row need not be the answer."""

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
    """Whether it is the worst of those that can be judged, and by more than chance."""

    @property
    def enough(self) -> bool:
        return self.generation.metrics.impressions >= ENOUGH

    @property
    def published(self) -> bool:
        """Version 0 is what was predicted before anything was."""
        return self.generation.version > 0

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
        _calibrated(level, generation)
        for level, of in generations.items()
        for generation in of
        if generation.metrics.impressions
    ]
    sure = [c for c in found if c.published and c.enough and c.beyond_chance]
    worst = max(sure, key=_badness, default=None)
    marked = [replace(c, worst=True) if c is worst else c for c in found]
    return sorted(marked, key=_badness, reverse=True)


def sentence(found: Sequence[Calibrated]) -> str:
    """The answer, one for all levels, and who was not asked."""
    judged = [c for c in found if c.published and c.enough]
    few = sum(c.published and not c.enough for c in found)
    left_out = [f"{few} with fewer than {ENOUGH:,} predictions"] if few else []
    left_out += ["version 0, before anything was published"] * any(not c.published for c in found)
    words = [_answer(judged)]
    words += [f"Left out: {'; '.join(left_out)}."] if left_out else []
    return " ".join(words)


def _answer(judged: Sequence[Calibrated]) -> str:
    if not judged:
        return "No published version has predicted enough yet to be judged."
    worst = next((c for c in judged if c.worst), None)
    if worst is None:
        return "No published version's calibration is off by more than chance."
    way = "few" if worst.generation.metrics.copc > 1 else "many"
    return (
        f"Worst calibrated: version {worst.generation.version} of {worst.level}, since "
        f"{worst.cells[6]} (event time): it promises too {way} clicks "
        f"(COPC {worst.cells[2]}, {worst.cells[4]})."
    )


def _calibrated(level: str, generation: Generation) -> Calibrated:
    m = generation.metrics
    clicks = m.ctr * m.impressions
    # Clicks are about Poisson around their sum of probabilities, if those are right.
    chance = _Z / math.sqrt(clicks / m.copc) if m.copc > 0 else math.nan
    off = abs(math.log(m.copc)) if m.copc > 0 else math.inf if m.copc == 0 else math.nan
    return Calibrated(level, generation, chance, off)


def _badness(one: Calibrated) -> float:
    return -1.0 if math.isnan(one.off) else one.off
