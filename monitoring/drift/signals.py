"""Signals: one value for every step of event time, from what was predicted and clicked.

A step's predictions come down to seven sums, so steps can be filled in any order of
arrival. A detector sees a value's distance from its baseline: the values of the same
time of day of the days before, in standard deviations. So one setting suits every
signal and domain, a day's ups and downs are no drift, and a season that turns over
weeks is not one either.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.settings import Signal

SIGNALS: tuple[Signal, ...] = get_args(Signal)
LIMIT = 6.0
"""Distances from the baseline are cut here: one mad value is not a lasting change."""
_SMALLEST = float(np.finfo(np.float64).eps)

SUMS = 7
Sums = NDArray[np.float64]
"""[7] over impressions: 1, click c, probability p, v = p (1 - p), (p - c) l, v l, v l^2 with
log-odds l; (p - c) l is the log loss less its expectation."""


def sums_by_step(
    event_time: NDArray, click: NDArray, probability: NDArray, step_ms: int
) -> dict[int, Sums]:
    """Sums of the B impressions of every step that they fall in, by the step's number.

    Args:
        event_time: int64 [B], ms. click: [B] 0 or 1. probability: [B].
    """
    step, row = np.unique(event_time // step_ms, return_inverse=True)
    p = np.clip(probability.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    log_odds, variance = np.log(p) - np.log1p(-p), p * (1 - p)
    columns = (
        np.ones(len(p)), click, p, variance,
        (p - click) * log_odds, variance * log_odds, variance * log_odds**2,
    )  # fmt: skip
    sums = np.stack([np.bincount(row, column, len(step)) for column in columns], axis=1)
    return dict(zip(step.tolist(), sums, strict=True))


def values_of(sums: Sums, min_impressions: int = 1) -> dict[Signal, float]:
    """Every signal's value of one step; NaN with too few impressions.

    ``score`` and ``ctr`` are means. ``calibration`` is clicks less predicted clicks in
    standard deviations of a calibrated model's clicks: about standard normal while the
    model is right, whatever the step holds. ``log_loss`` is its counterpart for the rest:
    the log loss beyond what the predictions expect of themselves, sum of (p - c) l, less
    the part that calibration explains (l around its mean weighted by v). The plain log
    loss mostly says once more what the click rate is.
    """
    n, clicks, predicted, variance, excess, by_odds, by_square = sums.tolist()
    if n < max(min_impressions, 1):
        return dict.fromkeys(SIGNALS, math.nan)
    odds = by_odds / variance
    excess_variance = by_square - odds * by_odds
    return {
        "log_loss": _standardised(excess - odds * (predicted - clicks), excess_variance),
        "score": predicted / n,
        "ctr": clicks / n,
        "calibration": _standardised(clicks - predicted, variance),
    }


def _standardised(sum_: float, variance: float) -> float:
    """NaN where all predictions are the same and there is no variance but by rounding."""
    return sum_ / math.sqrt(variance) if variance > 1e-9 else math.nan


class Baseline:
    """The last days' values of a signal, and how far a new one is from them."""

    def __init__(self, days: int, warm_up_days: int, steps_per_day: int) -> None:
        self._warm_up = warm_up_days
        self._values = np.full((days, steps_per_day), np.nan)

    def distance(self, step: int, x: float) -> float:
        """Of the value of step number ``step``, in standard deviations; then keep it.

        NaN until there are enough days. Every step has to be given, in order.
        """
        day, time = divmod(step, self._values.shape[1])
        distance = self._distance(time, x)
        self._values[day % len(self._values), time] = x
        return distance

    def _distance(self, time: int, x: float) -> float:
        known = ~np.isnan(self._values)
        days = known.sum(axis=0)
        if days[time] < self._warm_up or math.isnan(x):
            return math.nan
        values = np.where(known, self._values, 0.0)
        mean = values.sum(axis=0) / np.maximum(days, 1)
        freedom = max(int(days.sum()) - int((days > 0).sum()), 1)
        squares = float((np.where(known, values - mean, 0.0) ** 2).sum())
        deviation = math.sqrt(squares / freedom * (1 + 1 / int(days[time])))
        difference = x - float(mean[time])
        if abs(difference) <= 1e-9 * abs(x):  # of constants, rounding is all that differs
            return 0.0
        return min(max(difference / max(deviation, 1e-12), -LIMIT), LIMIT)

    def state(self) -> list[list[float]]:
        listed: list[list[float]] = self._values.tolist()
        return listed

    def from_state(self, state: list[list[float]]) -> None:
        """Take over the values of a baseline of the same shape; another's are no use."""
        values = np.array(state)
        if values.shape == self._values.shape:
            self._values = values
