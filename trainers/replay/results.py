"""What a variant left behind: its predictions, its forgetting matrix, what it cost.

<folder>/predictions.npz    of the ad impressions, in the log's order
<folder>/outcome.json       the rest; written last, so that a folder with it is whole
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errors import UserError

_PREDICTIONS, _OUTCOME = "predictions.npz", "outcome.json"


@dataclass(frozen=True)
class Predictions:
    """N ad impressions, each predicted before it was learnt."""

    impression_id: NDArray[np.int64]
    event_time: NDArray[np.int64]  # ms
    user: NDArray[np.int64]
    click: NDArray[np.int8]
    probability: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.impression_id)

    def chosen(self, mask_N: NDArray[np.bool_]) -> Predictions:
        return Predictions(*(getattr(self, field.name)[mask_N] for field in fields(self)))

    def in_order(self) -> Predictions:
        """By event time, then impression id, so that those of all variants line up."""
        return self.chosen(np.lexsort((self.impression_id, self.event_time)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Spent:
    """What a level's learning took."""

    samples: int
    seconds: float
    handed_down: int = 0
    """Bytes of what it left for the levels below."""


@dataclass(frozen=True)
class Outcome:
    predictions: Predictions
    retained: NDArray[np.float64]
    """R[i, j], GAUC on period j's held-back sample after learning up to period i; NaN above
    the diagonal and where undefined."""
    spent: dict[str, Spent]
    """By level."""


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes its name only when that worked.

    Raises:
        UserError: it cannot be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def save_outcome(outcome: Outcome, folder: Path) -> None:
    """Raises UserError where ``folder`` cannot be written."""
    with made_whole(folder) as partial:
        arrays: dict[str, Any] = {
            f.name: getattr(outcome.predictions, f.name) for f in fields(Predictions)
        }
        np.savez(partial / _PREDICTIONS, retained=outcome.retained, **arrays)
        spent = {level: asdict(spent) for level, spent in outcome.spent.items()}
        (partial / _OUTCOME).write_text(json.dumps({"spent": spent}, indent=1))


def load_outcome(folder: Path) -> Outcome | None:
    """What was saved in ``folder``; None where there is nothing whole."""
    try:
        about = json.loads((folder / _OUTCOME).read_text())
        with np.load(folder / _PREDICTIONS, allow_pickle=False) as file:
            arrays = {field.name: file[field.name] for field in fields(Predictions)}
            retained = file["retained"]
    except (OSError, ValueError, KeyError):
        return None
    spent = {level: Spent(**values) for level, values in about["spent"].items()}
    return Outcome(Predictions(**arrays), retained, spent)


def with_spent(outcome: Outcome, upstream: dict[str, Spent]) -> Outcome:
    """``outcome`` with what the levels before it took."""
    return replace(outcome, spent=upstream | outcome.spent)


def require_same_ads(outcomes: dict[str, Outcome]) -> None:
    """Raises UserError unless all variants predicted the same impressions."""
    first, *others = outcomes.values()
    for outcome in others:
        if not np.array_equal(first.predictions.impression_id, outcome.predictions.impression_id):
            raise UserError("variants predicted different impressions: has the log changed?")
