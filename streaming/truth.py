"""Side file of a synthetic market's true click probabilities, by impression id.

One `.npy` a slot under ``<directory>``, rows of (impression_id, probability)
ascending by id, named after the slot, which is the id's upper half
(:data:`streaming.market.SLOT_BITS`). Nothing of it is ever in an impression.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from errors import UserError
from streaming.market import SLOT_BITS, Slot

_ROW = np.dtype([("impression_id", "<i8"), ("probability", "<f8")])
_CACHED_SLOTS = 64


def truth_dir(run_dir: Path) -> Path:
    return run_dir / "truth"


def truth_path(directory: Path, slot: int) -> Path:
    return directory / f"{slot:08d}.npy"


def write_truth(directory: Path, slot: Slot) -> Path:
    """Write one slot's probabilities, both domains; a reader sees the whole file or none.

    Raises:
        UserError: the file cannot be written.
    """
    rows = np.empty(len(slot.natural) + len(slot.ad), _ROW)
    ids = [np.asarray(part.column("impression_id")) for part in (slot.natural, slot.ad)]
    rows["impression_id"] = np.concatenate(ids)
    rows["probability"] = np.concatenate([slot.natural_probability, slot.ad_probability])
    rows = rows[np.argsort(rows["impression_id"])]
    path = truth_path(directory, slot.index)
    partial = path.with_suffix(".partial")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.save(file, rows)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


class Truth:
    """True click probabilities of impressions; slots written later are found too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._slots: OrderedDict[int, np.ndarray] = OrderedDict()

    def lookup(self, impression_ids: np.ndarray) -> np.ndarray:
        """float64 [B] for int64 [B]; NaN where the probability is not known."""
        ids = np.asarray(impression_ids, np.int64)
        found = np.full(len(ids), np.nan)
        slots = ids >> SLOT_BITS
        for slot in np.unique(slots).tolist():
            rows = self._slot(slot)
            if rows is not None and len(rows):
                of_slot = slots == slot
                found[of_slot] = _search(rows, ids[of_slot])
        return found

    def _slot(self, slot: int) -> np.ndarray | None:
        if slot not in self._slots:
            try:
                self._slots[slot] = np.load(truth_path(self._directory, slot))
            except FileNotFoundError:
                return None
            if len(self._slots) > _CACHED_SLOTS:
                self._slots.popitem(last=False)
        self._slots.move_to_end(slot)
        return self._slots[slot]


def _search(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    known = rows["impression_id"]
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[place] == ids, rows["probability"][place], np.nan)
