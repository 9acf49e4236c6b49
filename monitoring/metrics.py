"""Quality of click predictions over a window of n impressions, as pure functions.

Everywhere: `user` is an integer array [n], `click` holds 0 or 1 [n], `probability`
is a float array [n] of predicted click probabilities. A metric that the window
does not define is NaN, never a made-up neutral value such as 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NAN = float("nan")
_SMALLEST = float(np.finfo(np.float64).eps)
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Gauc:
    """GAUC of a window; see :func:`gauc`."""

    weighted: float
    unweighted: float
    groups_used: int
    groups_skipped: int
    impressions: int  # of the groups used


@dataclass(frozen=True)
class UserAucs:
    """AUC of each of the g users who have a click and a non-click."""

    user: NDArray[np.generic]  # [g] ascending
    auc: NDArray[np.float64]  # [g]
    impressions: NDArray[np.int64]  # [g]
    skipped: int  # users without a click or without a non-click

    def gauc(self) -> Gauc:
        total = int(self.impressions.sum())
        used = len(self.auc)
        return Gauc(
            weighted=float(self.auc @ self.impressions / total) if used else NAN,
            unweighted=float(self.auc.mean()) if used else NAN,
            groups_used=used,
            groups_skipped=self.skipped,
            impressions=total,
        )


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends NaN when the sample cannot give one."""

    low: float
    high: float


def gauc(user: ArrayLike, click: ArrayLike, probability: ArrayLike) -> Gauc:
    """AUC within each user, averaged over users weighted by their impressions.

    sum_u n_u AUC_u / sum_u n_u over the users with at least one click and one
    non-click, ties counted one half (Zhu et al., "Optimized Cost per Click in
    Taobao Display Advertising", 2017). `unweighted` is the plain mean over the
    same users.

    Raises:
        ValueError: lengths differ, a click is not 0 or 1, or a probability is NaN.
    """
    return user_aucs(user, click, probability).gauc()


def auc(click: ArrayLike, probability: ArrayLike) -> float:
    """Area under the ROC curve over the whole window, ties one half; NaN for one class."""
    clicks, scores = _checked(click, probability)
    return _auc(clicks, scores, np.argsort(scores))


def gauc_and_auc(user: ArrayLike, click: ArrayLike, probability: ArrayLike) -> tuple[Gauc, float]:
    """:func:`gauc` and :func:`auc` of the same window, which is sorted by score only once."""
    users, clicks, scores = _checked_users(user, click, probability)
    by_score = np.argsort(scores)
    groups = _aucs(users, clicks, scores, _by_user_and_score(users, by_score)).gauc()
    return groups, _auc(clicks, scores, by_score)


def _auc(clicks: NDArray[np.bool_], scores: NDArray[np.floating], by_score: NDArray) -> float:
    users = np.zeros(clicks.shape, np.int8)
    return _aucs(users, clicks, scores, by_score).gauc().weighted


def user_aucs(user: ArrayLike, click: ArrayLike, probability: ArrayLike) -> UserAucs:
    """The parts that a GAUC is made of. Raises as :func:`gauc` does."""
    users, clicks, scores = _checked_users(user, click, probability)
    return _aucs(users, clicks, scores, _by_user_and_score(users, np.argsort(scores)))


def _by_user_and_score(users: NDArray[np.generic], by_score: NDArray) -> NDArray:
    """The rows in that order, equal ones in any; ``by_score`` has them in that of scores.

    Sorts that need not be stable take a third of the time of `np.lexsort`.
    """
    n = len(users)
    by_user = np.argsort(users)
    ordered = users[by_user]
    groups = np.cumsum(np.concatenate(([False], ordered[1:] != ordered[:-1])))[:n] * n
    key = np.empty(n, np.int64)  # a user's number, then a score's
    key[by_user] = groups
    key[by_score] += np.arange(n)
    return by_score[np.sort(key) - groups]


def _aucs(
    users: NDArray[np.generic],
    clicks: NDArray[np.bool_],
    scores: NDArray[np.floating],
    order: NDArray,
) -> UserAucs:
    """``order`` sorts by user, then by score."""
    if not len(users):
        return UserAucs(users, np.empty(0), np.empty(0, np.int64), 0)
    users, scores, clicks = users[order], scores[order], clicks[order]
    starts = _starts(users[1:] != users[:-1])
    total = _lengths(starts, len(users))
    clicked = np.add.reduceat(clicks, starts, dtype=np.int64)
    # Mann-Whitney: with r the mid-ranks of a user's clicks, U = sum r - c (c + 1) / 2.
    # All is kept doubled, and so in whole numbers, until the one division.
    ranks = np.where(clicks, _doubled_mid_ranks(users, scores), 0)
    rank_sum = np.add.reduceat(ranks, starts) - 2 * starts * clicked
    doubled_u = rank_sum - clicked * (clicked + 1)
    used = (clicked > 0) & (clicked < total)
    pairs = clicked[used] * (total[used] - clicked[used])
    aucs = doubled_u[used] / (2 * pairs)
    return UserAucs(users[starts[used]], aucs, total[used], int(len(used) - used.sum()))


def _doubled_mid_ranks(users: NDArray[np.generic], scores: NDArray[np.generic]) -> NDArray:
    """Twice the mean rank (from 1, over the whole window) of each row's run of equal scores."""
    runs = _starts((users[1:] != users[:-1]) | (scores[1:] != scores[:-1]))
    lengths = _lengths(runs, len(users))
    return np.repeat(2 * runs + lengths + 1, lengths)


def _starts(changes: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.flatnonzero(changes) + 1))


def _lengths(starts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    return np.diff(starts, append=n)


def gauc_interval(
    user: ArrayLike,
    click: ArrayLike,
    probability: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over users of the weighted GAUC.

    Users, not impressions, are drawn with replacement: impressions of one user
    are not independent. Fewer than two users with a click and a non-click give
    an undefined interval. Raises as :func:`gauc` does.
    """
    parts = user_aucs(user, click, probability)
    groups = len(parts.auc)
    if groups < 2:
        return Interval(NAN, NAN)
    rng = np.random.default_rng(seed)
    weight = parts.impressions.astype(np.float64)
    weighted = weight * parts.auc
    means: list[NDArray[np.float64]] = []
    chunk = max(1, _DRAWS_AT_ONCE // groups)
    for done in range(0, resamples, chunk):
        drawn = rng.integers(0, groups, (min(chunk, resamples - done), groups))
        means.append(weighted[drawn].sum(axis=1) / weight[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Forgetting:
    """What became of earlier periods; both NaN where no period tells."""

    backward_transfer: float
    """Mean of R[T, j] - R[j, j]: below 0, what was learnt later took away from it."""
    forgetting: float
    """Mean of max_i R[i, j] - R[T, j]: how far it fell from its best."""


def forgetting(retained: ArrayLike) -> Forgetting:
    """How much is lost, of R [I, T]: R[i, j] is a quality on period j after learning up to i.

    Over the periods j before the last of which R[j, j] and R[I, j] are known (Lopez-Paz and
    Ranzato, 2017; Chaudhry et al., 2018). Rows beyond the T-th are of later models, the last one
    the newest. What lies above the diagonal is not looked at.

    Raises:
        ValueError: R is no matrix, or has more columns than rows.
    """
    r = np.asarray(retained, np.float64)
    if r.ndim != 2 or r.shape[0] < r.shape[1]:
        raise ValueError(f"a matrix of as many rows as columns expected, or more, found {r.shape}")
    first, last = np.diagonal(r)[:-1], r[-1:, :-1].reshape(-1)
    known = ~(np.isnan(first) | np.isnan(last))
    if not known.any():
        return Forgetting(NAN, NAN)
    learnt = np.where(np.tri(*r.shape, dtype=np.bool_) & ~np.isnan(r), r, -np.inf)
    best = learnt.max(axis=0)[:-1]
    return Forgetting(float((last - first)[known].mean()), float((best - last)[known].mean()))


def log_loss(click: ArrayLike, probability: ArrayLike) -> float:
    """Mean binary cross-entropy in nats; NaN for an empty window.

    Probabilities are kept off 0 and 1 by the smallest step of a double, so that
    one wrong certainty costs 36 nats and not infinity.

    Raises:
        ValueError: lengths differ, a click is not 0 or 1, or a probability is NaN or outside 0..1.
    """
    clicks, p = _checked_probabilities(click, probability)
    if not len(p):
        return NAN
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return float(-np.where(clicks, np.log(p), np.log1p(-p)).mean())


def normalized_entropy(click: ArrayLike, probability: ArrayLike) -> float:
    """Log loss over the entropy of the window's own click rate (He et al., 2014).

    1 is what always predicting the window's mean scores; lower is better. NaN
    for an empty window, or one with clicks only or none. Raises as :func:`log_loss` does.
    """
    return over_entropy(log_loss(click, probability), click)


def over_entropy(loss: float, click: ArrayLike) -> float:
    """``loss`` as :func:`normalized_entropy` has it, for one who has the log loss already."""
    clicks = np.asarray(click)
    rate = float(clicks.mean()) if len(clicks) else 0.0
    if not 0 < rate < 1:
        return NAN
    return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def copc(click: ArrayLike, probability: ArrayLike) -> float:
    """Clicks over predicted clicks; NaN when nothing is predicted. Raises as :func:`log_loss`."""
    clicks, p = _checked_probabilities(click, probability)
    predicted = float(p.sum())
    return float(clicks.sum()) / predicted if predicted > 0 else NAN


@dataclass(frozen=True)
class Bin:
    """Impressions of like predictions; NaN where there are none."""

    predicted: float  # mean
    clicked: float  # share
    impressions: int

    @property
    def copc(self) -> float:
        return self.clicked / self.predicted if self.predicted > 0 else NAN


def calibration(click: ArrayLike, probability: ArrayLike, bins: int = 10) -> list[Bin]:
    """As many impressions in each of ``bins``, by rising prediction, but equal ones together.

    So the order of the rows does not matter, and a bin may be empty. Raises as
    :func:`log_loss` does.
    """
    clicks, p = _checked_probabilities(click, probability)
    if not len(p):
        return [Bin(NAN, NAN, 0)] * bins
    ordered = np.sort(p)
    cuts = ordered[np.arange(1, bins) * len(p) // bins]
    bin_N = np.searchsorted(cuts, p, side="right")
    return [_bin(clicks[own], p[own]) for own in (bin_N == b for b in range(bins))]


def _bin(clicks: NDArray[np.bool_], p: NDArray[np.float64]) -> Bin:
    if not len(p):
        return Bin(NAN, NAN, 0)
    return Bin(float(p.mean()), float(clicks.mean()), len(p))


def _checked(
    click: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    clicks, scores = np.asarray(click), np.asarray(probability)
    if clicks.ndim != 1 or clicks.shape != scores.shape:
        raise ValueError(f"{clicks.shape} clicks for {scores.shape} probabilities")
    if clicks.dtype != np.bool_:
        if not np.isin(clicks, (0, 1)).all():
            raise ValueError("a click is neither 0 nor 1")
        clicks = clicks.astype(np.bool_)
    missing = np.isnan(scores)
    if missing.any():
        raise ValueError(f"{int(missing.sum())} of {len(scores)} probabilities are NaN")
    return clicks, scores


def _checked_users(
    user: ArrayLike, click: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.generic], NDArray[np.bool_], NDArray[np.floating]]:
    clicks, scores = _checked(click, probability)
    users = np.asarray(user)
    if users.shape != clicks.shape:
        raise ValueError(f"{users.shape} users for {clicks.shape} clicks")
    return users, clicks, scores


def _checked_probabilities(
    click: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    clicks, scores = _checked(click, probability)
    p = scores.astype(np.float64)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"a probability lies outside 0..1 ({p.min():g} to {p.max():g})")
    return clicks, p
