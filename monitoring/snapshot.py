"""What the live view shows, at one moment. Plain data: NaN is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitoring.hand_downs import Effect
from monitoring.series import Point

NAN = float("nan")
FLOOR = 0.5
"""GAUC of a coin toss."""


@dataclass(frozen=True)
class ProcessState:
    name: str
    state: str
    """`running`, `starting`, `stalled`, `no answer` or `dead`; another word is shown as it is."""
    age_seconds: float = NAN
    note: str = ""


@dataclass(frozen=True)
class TableState:
    name: str
    occupancy: float = NAN  # share of rows in use
    evictions: float = 0


@dataclass(frozen=True)
class LevelState:
    """One level, its ranks put together."""

    level: str
    impressions: float = 0  # learnt since the process started
    per_second: float = NAN
    lag_records: float = NAN
    lag_seconds: float = NAN  # event time
    event_time: float = NAN  # s since 1970-01-01 UTC
    loss: float = NAN
    gauc: float = NAN
    ceiling: float = NAN
    normalized_entropy: float = NAN
    copc: float = NAN
    ctr: float = NAN
    model_version: float = NAN
    checkpoint_age_seconds: float = NAN
    history: float = NAN  # share of impressions whose user or item has a historical embedding
    history_age_seconds: float = NAN  # event time since the newest complete period's end
    hand_down: float = NAN  # event time of the last hand-down taken over, s
    tables: tuple[TableState, ...] = ()
    late: float = 0  # impressions learnt after later ones
    repeated: float = 0  # impressions whose id was seen shortly before
    lost: float = 0  # records that retention removed unread


@dataclass(frozen=True)
class Snapshot:
    at: float  # wall clock, s since 1970
    processes: tuple[ProcessState, ...] = ()
    levels: tuple[LevelState, ...] = ()
    level: str = "actr"  # the chart's and the tables'
    points: tuple[Point, ...] = ()  # the chart's
    hand_downs: tuple[Effect, ...] = ()  # of the chart's level, oldest first
    produced: Mapping[str, float] = field(default_factory=dict)  # topic to impressions
    produced_per_second: float = NAN
    dead_letters: Mapping[str, float] = field(default_factory=dict)  # reason to count
    kafka: str = ""  # "up", "down", or empty: not known
    message: str = ""  # one line that the owner of the view wants shown

    @property
    def gauc(self) -> tuple[float, float]:
        """Newest GAUC of the model, and its ceiling: the chart's last point, else the trainer's."""
        if self.points:
            return self.points[-1].model, self.points[-1].ceiling
        shown = self.shown
        return (shown.gauc, shown.ceiling) if shown is not None else (NAN, NAN)

    @property
    def shown(self) -> LevelState | None:
        """The chart's level; None: it does not run."""
        return next((one for one in self.levels if one.level == self.level), None)
