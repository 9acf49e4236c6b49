"""What the monitor tells at one moment, to Prometheus and to people. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitoring.freshness import Delays
from monitoring.level_quality import Quality
from monitoring.recalled import Recalled


@dataclass(frozen=True)
class LevelTold:
    """One level."""

    level: str
    quality: Quality
    predictions: int  # read, each once
    repeated: int  # read again, left out
    late: int  # whose shortest window had ended in their partition of impressions
    learnt: Delays
    published: Delays
    published_version: int | None
    published_at: int  # wall clock, ms
    recalled: Recalled | None = None  # by the published version, where it is measured


@dataclass(frozen=True)
class Alarm:
    """Something that an observer wants people to look at."""

    event_time: int  # ms
    words: str


@dataclass(frozen=True)
class Told:
    at: float = 0.0  # wall clock, s since 1970
    levels: tuple[LevelTold, ...] = ()
    lag: Mapping[str, float] = field(default_factory=dict)  # topic to records; NaN: not known
    unreadable: Mapping[str, int] = field(default_factory=dict)  # topic to records
    lost: Mapping[str, int] = field(default_factory=dict)  # topic to records
    alarms: tuple[Alarm, ...] = ()  # the last ones, newest first
    problem: str = ""  # why nothing is read; empty: all is well
