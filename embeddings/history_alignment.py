"""How far one period's vectors turned away from those of the period before, and turning back.

Only what entities have in common between two periods can tell. One rotation serves users
and items alike, so that the product of any user with any item stays what it was.

Legend: M entities in common, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embeddings.history import Snapshot


@dataclass(frozen=True)
class Alignment:
    """The rotation that brings a period's vectors closest to those of the period before."""

    rotation_DD: NDArray[np.float64]  # orthogonal; aligned = vectors @ rotation
    entities: int  # in common, of all buckets
    before: float  # root mean squared distance over that of the vectors' lengths; NaN: none
    after: float  # the same once rotated

    @property
    def angle(self) -> float:
        """Root mean squared angle of the rotation over its D dimensions, radians."""
        angles_D = np.angle(np.linalg.eigvals(self.rotation_DD))
        return float(np.sqrt(np.mean(angles_D**2)))


def procrustes(older: Sequence[Snapshot], newer: Sequence[Snapshot]) -> Alignment:
    """Fit ``newer`` onto ``older``: the orthogonal R with the least ||newer R - older||.

    The orthogonal Procrustes problem (Schönemann 1966): with the singular value
    decomposition newer' older = U S V', R = U V'. With fewer entities in common than
    dimensions it is undetermined, and R the identity.

    Args:
        older, newer: the buckets of two periods, in any order, some maybe missing.
    """
    dim = newer[0].dim if newer else 0
    product_DD, squares, count = np.zeros((dim, dim)), 0.0, 0
    for older_MD, newer_MD in _common(older, newer):
        product_DD += newer_MD.T @ older_MD
        squares += float((older_MD**2).sum() + (newer_MD**2).sum())
        count += len(older_MD)
    rotation_DD = np.eye(dim)
    if count >= dim:
        left_DD, _, right_DD = np.linalg.svd(product_DD)
        rotation_DD = left_DD @ right_DD
    overlap = float(np.trace(product_DD)), float(np.trace(rotation_DD.T @ product_DD))
    before, after = (_relative(squares, cross) for cross in overlap)
    return Alignment(rotation_DD, count, before, after)


def _relative(squares: float, cross: float) -> float:
    """sqrt(||a - b||² / ((||a||² + ||b||²) / 2)) from the squares' sum and a·b."""
    return float(np.sqrt(max(0.0, 2 - 4 * cross / squares))) if squares else float("nan")


def align(older: Sequence[Snapshot], newer: Sequence[Snapshot]) -> list[Snapshot]:
    """``newer``, rotated onto ``older`` by :func:`procrustes`."""
    rotation_DD = procrustes(older, newer).rotation_DD
    return [rotated(snapshot, rotation_DD) for snapshot in newer]


def rotated(snapshot: Snapshot, rotation_DD: NDArray[np.float64]) -> Snapshot:
    vectors_ND = snapshot.vectors_ND.astype(np.float64) @ rotation_DD
    return replace(snapshot, vectors_ND=vectors_ND.astype(np.float16))


def cosine_distance(older: Sequence[Snapshot], newer: Sequence[Snapshot]) -> float:
    """Mean of 1 - cos between the vectors of each entity in both; NaN without any.

    An entity with a vector of zeros has no direction and does not count.
    """
    total, count = 0.0, 0
    for older_MD, newer_MD in _common(older, newer):
        lengths_M = np.linalg.norm(older_MD, axis=1) * np.linalg.norm(newer_MD, axis=1)
        products_M = (older_MD * newer_MD).sum(axis=1)
        counts_M = lengths_M > 0
        total += float((1 - products_M[counts_M] / lengths_M[counts_M]).sum())
        count += int(counts_M.sum())
    return total / count if count else float("nan")


def _common(
    older: Sequence[Snapshot], newer: Sequence[Snapshot]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """[M, D] older and newer vectors of the entities in both, bucket by bucket in order."""
    before = {(snapshot.kind, snapshot.bucket): snapshot for snapshot in older}
    for after in sorted(newer, key=lambda snapshot: (snapshot.kind, snapshot.bucket)):
        other = before.get((after.kind, after.bucket))
        if other is not None and other.dim == after.dim:
            _, old, new = np.intersect1d(
                other.ids_N, after.ids_N, assume_unique=True, return_indices=True
            )
            yield other.vectors_ND[old].astype(float), after.vectors_ND[new].astype(float)
