"""Several models' predictions of the same impressions, compared. Pure.

Legend: V models, N impressions, U users with a click and a non-click, R resamples.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.metrics import NAN, Interval, user_aucs

_COUNTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Difference:
    """The weighted GAUC of one model less that of another, and where it lies."""

    difference: float
    interval: Interval

    @property
    def clear(self) -> bool:
        """The interval does not hold 0."""
        return self.interval.low > 0 or self.interval.high < 0


_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom."""


def mean_with_interval(values: Sequence[float]) -> Difference:
    """The mean of independent differences, such as one a seed, and its 95 % interval.

    Student's t; for more than ten values that of ten, which is a little too wide. Fewer than
    two give no interval.
    """
    count = len(values)
    mean = sum(values) / count if count else NAN
    if count < 2:
        return Difference(mean, Interval(NAN, NAN))
    t = _STUDENT[min(count - 2, len(_STUDENT) - 1)]
    half = t * statistics.stdev(values) / math.sqrt(count)
    return Difference(mean, Interval(mean - half, mean + half))


def gauc_differences(
    user: ArrayLike,
    click: ArrayLike,
    probability_VN: list[NDArray[np.floating]],
    *,
    confidence: float = 0.95,
    resamples: int = 1_000,
    seed: int = 0,
) -> dict[tuple[int, int], Difference]:
    """For each pair a < b of models GAUC[a] - GAUC[b], with a percentile bootstrap over users.

    A resampling of users only weighs each user's n_u and n_u AUC_u by how often it was
    drawn, so all models and resamples are one matrix product [R, U] x [U, V]. Every
    pair is judged on the same draws. Fewer than two users give no interval.

    Raises:
        ValueError: as `monitoring.metrics.gauc`.
    """
    parts = [user_aucs(user, click, p_N) for p_N in probability_VN]
    if not parts:
        return {}
    weight_U = parts[0].impressions.astype(np.float64)
    gain_UV = np.stack([weight_U * part.auc for part in parts], axis=1)
    whole_V = gain_UV.sum(0) / weight_U.sum() if len(weight_U) else np.full(len(parts), NAN)
    drawn_RV = _resampled(weight_U, gain_UV, resamples, np.random.default_rng(seed))
    pairs = [(a, b) for a in range(len(parts)) for b in range(a + 1, len(parts))]
    return {
        (a, b): Difference(
            float(whole_V[a] - whole_V[b]), _interval(drawn_RV[:, a] - drawn_RV[:, b], confidence)
        )
        for a, b in pairs
    }


def _resampled(
    weight_U: NDArray[np.float64],
    gain_UV: NDArray[np.float64],
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """GAUC [R, V] of each model in each resampling of the users."""
    users = len(weight_U)
    if users < 2:
        return np.empty((0, gain_UV.shape[1]))
    found = []
    chunk = max(1, _COUNTS_AT_ONCE // users)
    for done in range(0, resamples, chunk):
        rows = min(chunk, resamples - done)
        drawn = rng.integers(0, users, (rows, users)) + users * np.arange(rows)[:, None]
        count_RU = np.bincount(drawn.reshape(-1), minlength=rows * users).reshape(rows, users)
        found.append((count_RU @ gain_UV) / (count_RU @ weight_U)[:, None])
    return np.concatenate(found)


def _interval(values_R: NDArray[np.float64], confidence: float) -> Interval:
    if not len(values_R):
        return Interval(NAN, NAN)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return Interval(float(low), float(high))
