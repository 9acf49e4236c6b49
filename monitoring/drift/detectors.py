"""One contract for detectors of change, and what implements it.

A detector's state is a pickle of River's object, and names River's version and the
settings: its detectors are plain data and go on bit-equal, KSWIN's random numbers
included. A checkpoint is read by who wrote it, so a pickle is no risk there. After
an upgrade of River the object may mean something else, and with other settings it
would go on with the old ones, so detectors then start anew.
"""

from __future__ import annotations

import base64
import math
import pickle
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Protocol

from river import drift

from monitoring.drift.settings import DriftConfig, Signal
from settings import Section

MIN_VALUES = 8
"""Values since its beginning or last alarm before which no detector speaks."""


class Detector(Protocol):
    """Told one number at a time, says whether the last one showed a lasting change.

    After an alarm it starts anew: what comes next is the new normal. NaN is no
    value: it changes nothing and is never an alarm.
    """

    def update(self, x: float) -> None: ...

    @property
    def drift_detected(self) -> bool: ...

    @property
    def statistic(self) -> float:
        """What it decides by, in its own terms; NaN: nothing yet."""

    def state(self) -> dict[str, Any]:
        """All there is to know, as JSON; see :meth:`from_state`."""

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Go on bit-equal where ``state`` was taken from one of the same settings."""


class Never:
    """No alarm at all: what delay and misses cost at worst."""

    drift_detected = False
    statistic = math.nan

    def update(self, x: float) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def from_state(self, state: Mapping[str, Any]) -> None:
        pass


class Always:
    """An alarm at every value: what false alarms cost at worst."""

    statistic = math.nan

    def __init__(self) -> None:
        self.drift_detected = False

    def update(self, x: float) -> None:
        self.drift_detected = not math.isnan(x)

    def state(self) -> dict[str, Any]:
        return {"detected": self.drift_detected}

    def from_state(self, state: Mapping[str, Any]) -> None:
        self.drift_detected = bool(state["detected"])


class RiverDetector:
    """One of River's, which start anew at the first value after an alarm."""

    def __init__(self, detector: Any, own: Section, statistic: Callable[[Any], float]) -> None:
        self._river = detector
        self._made_by = f"river {version('river')} {own.model_dump_json(exclude={'signals'})}"
        self._statistic = statistic
        self.drift_detected = False

    def update(self, x: float) -> None:
        self.drift_detected = False
        if not math.isnan(x):
            self._river.update(x)
            self.drift_detected = bool(self._river.drift_detected)

    @property
    def statistic(self) -> float:
        return float(self._statistic(self._river))

    def state(self) -> dict[str, Any]:
        return {
            "made_by": self._made_by,
            "pickle": base64.b64encode(pickle.dumps(self._river)).decode(),
            "detected": self.drift_detected,
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        if state["made_by"] == self._made_by:
            self._river = pickle.loads(base64.b64decode(state["pickle"]))
            self.drift_detected = bool(state["detected"])


def adwin(config: DriftConfig) -> Detector:
    """Its statistic: the mean of the window that it has kept."""
    own = config.adwin
    detector = drift.ADWIN(delta=own.delta, clock=1, min_window_length=2, grace_period=MIN_VALUES)
    return RiverDetector(detector, own, lambda d: d.estimation if d.width else math.nan)


def kswin(config: DriftConfig) -> Detector:
    """Its statistic: the p-value of its last test."""
    own = config.kswin
    detector = drift.KSWIN(
        alpha=own.alpha, window_size=own.window, stat_size=own.recent, seed=own.seed
    )
    return RiverDetector(detector, own, lambda d: d.p_value if d.n >= own.window else math.nan)


def page_hinkley(config: DriftConfig) -> Detector:
    """Its statistic: the greater of its two sums, an alarm above ``threshold``."""
    own = config.page_hinkley
    detector = drift.PageHinkley(
        min_instances=MIN_VALUES, delta=own.delta, threshold=own.threshold, alpha=1.0
    )
    return RiverDetector(detector, own, _greater_sum)


def _greater_sum(detector: Any) -> float:
    if not detector._x_mean.n:
        return math.nan
    up = detector._sum_increase - detector._min_increase
    return max(up, detector._max_decrease - detector._sum_decrease)


DETECTORS: dict[str, Callable[[DriftConfig], Detector]] = {
    "adwin": adwin,
    "kswin": kswin,
    "page_hinkley": page_hinkley,
}
"""By name, which is also that of their section of the configuration."""


def watchers_of(signal: Signal, config: DriftConfig) -> dict[str, Detector]:
    """A new detector of each kind that watches ``signal``."""
    return {
        n: make(config) for n, make in DETECTORS.items() if signal in getattr(config, n).signals
    }
