"""What the kept windows look like as a whole, in numbers that are followed over time.

Legend: N entities of a bucket, H periods kept, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from embeddings.history import Window


@dataclass(frozen=True)
class Statistics:
    """Of one bucket, or of several added up."""

    entities: int = 0
    """Users or items with a vector of any period."""
    seen: int = 0
    """Of these, in the newest period."""
    returning: int = 0
    """Of those seen, with a vector of an earlier period as well."""
    distance: float = 0.0
    """Sum of cosine distances of `compared` entities between the newest period and their last."""
    compared: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.entities + other.entities,
            self.seen + other.seen,
            self.returning + other.returning,
            self.distance + other.distance,
            self.compared + other.compared,
        )

    @property
    def coverage(self) -> float:
        """Share of those seen in the newest period that had a history; NaN: nobody was seen."""
        return self.returning / self.seen if self.seen else math.nan

    @property
    def mean_distance(self) -> float:
        """Mean of 1 - cos between one period's vector and the next; NaN: nobody to compare."""
        return self.distance / self.compared if self.compared else math.nan


def statistics(window: Window) -> Statistics:
    """Of one bucket, in which the newest period may have been empty."""
    if not len(window):
        return Statistics()
    seen_N = window.period_ends_NH[:, 0] == window.newest_period_end
    seen, entities = int(seen_N.sum()), len(window)
    if window.slots == 1:
        return Statistics(entities, seen)
    returning_N = seen_N & (window.period_ends_NH[:, 1] > 0)
    newer_ND, older_ND = (window.vectors_NHD[returning_N, h].astype(np.float32) for h in (0, 1))
    lengths_N = np.linalg.norm(newer_ND, axis=1) * np.linalg.norm(older_ND, axis=1)
    # A vector of zeros has no direction.
    has_direction_N = lengths_N > 0
    products_N = np.einsum("nd,nd->n", newer_ND, older_ND)[has_direction_N]
    distance = float((1 - products_N / lengths_N[has_direction_N]).sum())
    returning, compared = int(returning_N.sum()), int(has_direction_N.sum())
    return Statistics(entities, seen, returning, distance, compared)


def total(of_buckets: Iterable[Statistics]) -> Statistics:
    return sum(of_buckets, Statistics())
