"""How far TPM's vectors turn from one period to the next, and whether turning them back helps.

    python -m benchmarks.rotation --market standard --seeds 101,102

Between successive snapshots: the mean cosine distance of what entities have in common, before
and after the best rotation (orthogonal Procrustes, Schönemann 1966), and how far that is from
none at all. Then `full` with TPM's vectors as they are, and with every period rotated onto the
one before. What is finished is kept in --out and not done again.

Legend: M entities in common, D width.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.method import SETTINGS, run
from benchmarks.report import publish
from config import Config
from embeddings.history import Snapshot
from settings import load
from trainers.replay.figures import Line
from trainers.replay.histories import read_period, write_period
from trainers.replay.plan import VARIANTS, Variant
from trainers.replay.results import made_whole
from trainers.replay.run import Replay
from trainers.replay.stages import Stage

FULL = VARIANTS["full"]


@dataclass(frozen=True)
class Turn:
    """From one period to the next."""

    before: float  # mean of 1 - cos between an entity's vectors
    after: float  # the same once rotated
    distance: float  # Frobenius norm of R - I, of 2 sqrt(D) at most


class Aligned(Replay):
    """A replay in which TPM hands down every period rotated onto the one before."""

    def _tpm(self, variant: Variant, config: Config) -> Stage:
        stage = super()._tpm(variant, config)
        folder = stage.folder.with_name(f"{stage.folder.name}-aligned")
        if not folder.exists():
            with made_whole(folder) as partial:
                for period in aligned(periods_of(stage.folder, config.history.buckets)):
                    write_period(partial, period)
        return replace(stage, folder=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--market", default="standard")
    parser.add_argument("--seeds", default="101,102", help="separated by commas")
    parser.add_argument("--out", type=Path, default=Path("run/method"))
    options = parser.parse_args()
    config = load(Config, SETTINGS, {}, []).config
    table: dict[str, str] = {}
    for seed in options.seeds.split(","):
        out = options.out
        plain = run(config, options.market, seed, (FULL,), out).lines[0]
        turned = run(config, options.market, seed, (FULL,), out / "aligned", Aligned).lines[0]
        stages = out / "aligned" / f"{options.market}-{seed}" / "stages"
        (aligned_folder,) = stages.glob("tpm-*-aligned")
        folder = aligned_folder.with_name(aligned_folder.name.removesuffix("-aligned"))
        periods = list(periods_of(folder, FULL.applied(config).history.buckets))
        table[f"seed {seed}"] = _text(turns(periods), plain, turned)
    publish("rotation", table)


def _text(found: list[Turn], plain: Line, turned: Line) -> str:
    before, after, distance = (
        statistics.mean(getattr(turn, name) for turn in found)
        for name in ("before", "after", "distance")
    )
    return (
        f"{len(found)} turns: cosine distance {before:.3f}, rotated {after:.3f}, |R - I| "
        f"{distance:.2f}; GAUC of {FULL.name} {plain.gauc:.4f}, aligned {turned.gauc:.4f}"
    )


def periods_of(folder: Path, buckets: int) -> Iterator[list[Snapshot]]:
    """TPM's snapshots in the order of time, all buckets of a period together."""
    for end in sorted(int(path.stem) for path in folder.glob("[0-9]*.npz")):
        yield read_period(folder, end, buckets)


def turns(periods: Sequence[list[Snapshot]]) -> list[Turn]:
    """From each period to the next, where any entity has a direction in both."""
    found = []
    for older, newer in zip(periods[:-1], periods[1:], strict=True):
        old_MD, new_MD = in_common(older, newer)
        if not (old_MD.any(1) & new_MD.any(1)).any():
            continue
        rotation_DD = procrustes(old_MD, new_MD)
        found.append(
            Turn(
                cosine_distance(old_MD, new_MD),
                cosine_distance(old_MD, new_MD @ rotation_DD),
                float(np.linalg.norm(rotation_DD - np.eye(len(rotation_DD)))),
            )
        )
    return found


def aligned(periods: Iterator[list[Snapshot]]) -> Iterator[list[Snapshot]]:
    """Each period rotated onto the one before as that was rotated itself."""
    last: list[Snapshot] = []
    for period in periods:
        if last:
            rotation_DD = procrustes(*in_common(last, period))
            period = [_rotated(snapshot, rotation_DD) for snapshot in period]
        last = period
        yield period


def _rotated(snapshot: Snapshot, rotation_DD: NDArray[np.float64]) -> Snapshot:
    vectors_ND = snapshot.vectors_ND.astype(np.float64) @ rotation_DD
    return replace(snapshot, vectors_ND=vectors_ND.astype(np.float16))


def procrustes(older_MD: NDArray[np.float64], newer_MD: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthogonal R [D, D] with the least ||newer R - older||.

    With the singular value decomposition newer' older = U S V' it is U V'. One rotation serves
    users and items alike, so that the product of any two stays what it was.
    """
    left_DD, _, right_DD = np.linalg.svd(newer_MD.T @ older_MD)
    return left_DD @ right_DD


def cosine_distance(older_MD: NDArray[np.float64], newer_MD: NDArray[np.float64]) -> float:
    """Mean of 1 - cos; a vector of zeros has no direction and does not count."""
    lengths_M = np.linalg.norm(older_MD, axis=1) * np.linalg.norm(newer_MD, axis=1)
    products_M, counts_M = (older_MD * newer_MD).sum(axis=1), lengths_M > 0
    return float(np.mean(1 - products_M[counts_M] / lengths_M[counts_M]))


def in_common(
    older: Sequence[Snapshot], newer: Sequence[Snapshot]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[M, D] vectors of the users and items in both periods, row by row the same entity's."""
    before = {(snapshot.kind, snapshot.bucket): snapshot for snapshot in older}
    pairs = []
    for after in newer:
        other = before[after.kind, after.bucket]
        _, old, new = np.intersect1d(
            other.ids_N, after.ids_N, assume_unique=True, return_indices=True
        )
        pairs.append((other.vectors_ND[old], after.vectors_ND[new]))
    older_MD, newer_MD = (np.concatenate(part).astype(float) for part in zip(*pairs, strict=True))
    return older_MD, newer_MD


if __name__ == "__main__":
    main()
