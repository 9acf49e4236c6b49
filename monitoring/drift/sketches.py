"""Distributions as fixed-size counts, and how far two of them are apart.

Ids and categories are hashed into buckets. Numbers go into bins of equal relative
width, as in DDSketch (Masson et al., 2019), which need no data to be set up and are
the same for every day and domain; where two days are compared, bins are put together
to about a tenth of the reference each. The last bucket of both holds missing values.
Counts of parts add up to those of the whole.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streaming.impressions import Feature
from streaming.market_random import mix64

SCORE = "score"
"""What predicted probabilities are called among the features."""
_SMALL = 1e-4  # below this, numbers are told apart by their difference, not their ratio
_PER_E = 24  # bins by which a number grows e-fold: 4 % each
_HALF = 600  # bins on either side of 0: up to 3.6 million
NUMERIC_BINS = 2 * _HALF + 2
QUANTILES = 10

Counts = NDArray[np.int64]


def numeric_counts(values: NDArray) -> Counts:
    """int64 [NUMERIC_BINS] of numbers [N], NaN missing."""
    missing = np.isnan(values)
    scaled = np.arcsinh(np.where(missing, 0, values) / _SMALL) * _PER_E
    bins = np.clip(np.rint(scaled), -_HALF, _HALF).astype(np.int64) + _HALF
    return np.bincount(np.where(missing, NUMERIC_BINS - 1, bins), minlength=NUMERIC_BINS)


def hashed_counts(values: NDArray, buckets: int, missing: int = 0) -> Counts:
    """int64 [buckets + 1] of integers [N]."""
    bucket = mix64(values.astype(np.uint64)) % np.uint64(buckets)
    counts = np.bincount(bucket.astype(np.int64), minlength=buckets + 1)
    counts[-1] = missing
    return counts


def integers(feature: Feature, column: pa.Array) -> tuple[NDArray[np.int64], int]:
    """Ids or categories of a column, lists laid end to end, and how many rows have none."""
    if not feature.multi:
        return column.drop_null().to_numpy(zero_copy_only=False), column.null_count
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values, int(
        (column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) == 0).sum()
    )


def quantile_groups(reference: Counts) -> NDArray[np.int64]:
    """Which of QUANTILES groups every numeric bin belongs to; missing values have one more."""
    bins = reference[:-1]
    middle = (np.cumsum(bins) - bins / 2) / max(int(bins.sum()), 1)
    group = np.minimum((middle * QUANTILES).astype(np.int64), QUANTILES - 1)
    return np.append(group, QUANTILES)


def grouped(counts: Counts, group: NDArray[np.int64]) -> Counts:
    return np.bincount(group, counts, QUANTILES + 1).astype(np.int64)


def psi(reference: Counts, current: Counts) -> float:
    """Population stability index, sum of (q - p) ln(q / p) over buckets; NaN with nothing.

    A bucket that is empty on one side counts as half an impression there. By custom
    0.1 is a shift and 0.25 a large one; two samples of one distribution come to about
    (buckets - 1) (1 / n + 1 / m).
    """
    n, m = int(reference.sum()), int(current.sum())
    if not n or not m:
        return math.nan
    used = (reference > 0) | (current > 0)
    p = np.maximum(reference[used], 0.5) / n
    q = np.maximum(current[used], 0.5) / m
    return float(((q - p) * np.log(q / p)).sum())


def js_distance(left: Counts, right: Counts) -> float:
    """Jensen-Shannon distance, base 2: 0 for the same shares, 1 for nothing in common; NaN
    with nothing.
    """
    n, m = int(left.sum()), int(right.sum())
    if not n or not m:
        return math.nan
    p, q = left / n, right / m
    middle = (p + q) / 2
    divergence = (_entropy_to(p, middle) + _entropy_to(q, middle)) / 2
    return math.sqrt(min(max(divergence, 0.0), 1.0))


def _entropy_to(p: NDArray, q: NDArray) -> float:
    """Kullback-Leibler divergence in bits, 0 where p is 0."""
    some = p > 0
    return float((p[some] * np.log2(p[some] / q[some])).sum())
