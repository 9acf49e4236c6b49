"""Historical embeddings of all users and items, looked up as of an impression's event time.

A record of the compacted topic replaces one bucket, its tombstone removes it. What is
held can be kept in a local file, with the positions in the topic that it belongs to.

Legend: B ids looked up, N entities, K vectors kept of each, S of them given, D width.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.history import KINDS, Window, bucket_of
from embeddings.history_settings import HistoryConfig
from embeddings.history_table import HistoryTable, Rows, no_rows, rows_of

log = logging.getLogger(__name__)

FORMAT = 1

Bucket = tuple[str, int]
"""Kind and number."""


class HistoryStore:
    """The last published window of every bucket.

    One thread at a time changes it; any number look up meanwhile.

    Args:
        dim: width of a vector.
        kept: vectors of an entity in a window, :attr:`HistoryConfig.kept`.
        buckets: of each kind.
        aggregated: whether the vectors kept are aggregates, of which one is the answer.
        slots: vectors that are the answer; default: 1 if ``aggregated``, else ``kept``.
    """

    def __init__(
        self, dim: int, kept: int, buckets: int, aggregated: bool, slots: int | None = None
    ) -> None:
        self.dim, self.kept, self.buckets = dim, kept, buckets
        self.slots = slots or (1 if aggregated else kept)
        self.positions: dict[int, int] = {}
        """Partition of the topic to the offset of its next record, as of what is held."""
        self.outrun = 0
        """Ids looked up so long after their impression that an older vector than any kept may
        have been due: `history.versions` is too small for how far this reader is behind."""
        self._tables: dict[str, HistoryTable]
        self._ends: dict[Bucket, int]  # newest period end, still known once removed
        self.clear()

    @classmethod
    def of(cls, config: HistoryConfig, dim: int) -> HistoryStore:
        return cls(dim, config.kept, config.buckets, config.aggregated, config.slots)

    # -- looking up -------------------------------------------------------------------

    def lookup(
        self, kind: str, ids_B: NDArray[np.int64], event_time_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The newest S vectors of each id whose period ended at or before its event time.

        Args:
            ids_B: raw ids, known or not.
            event_time_B: ms.

        Returns:
            vectors_BSD newest first, zeros where there is none, and mask_BS, 1 where there is one.
        """
        found = self._tables[kind].lookup(ids_B, event_time_B, self.slots)
        self.outrun += found.outrun
        return found.vectors_BSD, found.mask_BS

    def entities(self, kind: str) -> int:
        return len(self._tables[kind])

    def newest_period_end(self, kind: str) -> int:
        """Of any bucket, ms; 0: none."""
        return max((end for (k, _), end in self._ends.items() if k == kind), default=0)

    @property
    def complete_period_end(self) -> int:
        """The newest that every bucket of both kinds has reached, ms; 0: some has none."""
        if len(self._ends) < len(KINDS) * self.buckets:
            return 0
        return min(self._ends.values())

    # -- changing ---------------------------------------------------------------------

    def replace(self, kind: str, bucket: int, window: Window) -> None:
        """Raises ValueError: ``window`` is not one of this bucket, or of another shape."""
        self.apply({(kind, bucket): window})

    def remove(self, kind: str, bucket: int) -> None:
        """Obey a tombstone. The period that the bucket had reached stays known."""
        self.apply({(kind, bucket): None})

    def apply(
        self,
        changes: Mapping[Bucket, Window | None],
        positions: Mapping[int, int] | None = None,
    ) -> None:
        """Replace buckets, remove those that are None, and move to ``positions``, all at once.

        Raises:
            ValueError: as :meth:`replace`; then nothing is changed.
        """
        rows = {bucket: self._rows(bucket, window) for bucket, window in changes.items()}
        for kind in {kind for kind, _ in changes}:
            own = {bucket: part for (k, bucket), part in rows.items() if k == kind}
            self._tables[kind] = self._tables[kind].replaced(own)
        # A new dictionary each time: others may be reading the old one.
        reached = {b: w.newest_period_end for b, w in changes.items() if w is not None}
        self._ends = self._ends | reached
        self.positions = self.positions | dict(positions or {})

    def check(self, bucket: Bucket, window: Window | None = None) -> None:
        """Raises ValueError: as :meth:`replace` would."""
        kind, number = bucket
        if kind not in KINDS or not 0 <= number < self.buckets:
            raise ValueError(f"no bucket {kind}/{number} among {self.buckets} of each kind")
        if window is None:
            return
        if (window.slots, window.dim) != (self.kept, self.dim):
            raise ValueError(
                f"{kind}/{number} has {window.slots} vectors of width {window.dim} an entity, "
                f"expected are {self.kept} of width {self.dim}"
            )
        if (bucket_of(window.ids_N, self.buckets) != number).any():
            raise ValueError(
                f"{kind}/{number} has ids that are not of bucket {number} of {self.buckets}"
            )

    def _rows(self, bucket: Bucket, window: Window | None) -> Rows:
        self.check(bucket, window)
        return no_rows(self.kept, self.dim) if window is None else rows_of(window)

    def clear(self) -> None:
        """Forget everything, positions too."""
        nobody = no_rows(self.kept, self.dim)
        self._tables = {kind: HistoryTable(nobody, self.buckets) for kind in KINDS}
        self._ends = {}
        self.positions = {}

    # -- a local copy -----------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write everything to ``path``, which is whole at any time. Not while it changes."""
        arrays: dict[str, Any] = {"about": _as_bytes(self._about())}
        for kind, table in self._tables.items():
            arrays |= {f"{kind}.{name}": array for name, array in vars(table.rows).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.new")
        with written.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)

    def load(self, path: Path) -> bool:
        """Take over what was saved; False, and nothing is changed, where it is of no use.

        It is a copy of the topic only: without it, everything is read again.
        """
        if not path.exists():
            return False
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                self._require_same_shape(about)
                tables = {kind: self._read_table(file, kind) for kind in KINDS}
            positions = {int(p): int(offset) for p, offset in about["positions"].items()}
            ends = {(str(kind), int(bucket)): int(end) for kind, bucket, end in about["ends"]}
        except Exception as error:  # whatever a damaged file brings about, the topic has it all
            log.warning("%s is not used, the topic is read anew: %s", path, error)
            return False
        self._tables, self._ends, self.positions = tables, ends, positions
        return True

    def _about(self) -> dict[str, Any]:
        return self._shape() | {
            "positions": self.positions,
            "ends": [[kind, bucket, end] for (kind, bucket), end in self._ends.items()],
        }

    def _shape(self) -> dict[str, int]:
        return {"format": FORMAT, "dim": self.dim, "kept": self.kept, "buckets": self.buckets}

    def _require_same_shape(self, about: Mapping[str, Any]) -> None:
        for name, value in self._shape().items():
            if about[name] != value:
                raise ValueError(f"it was written with {name} = {about[name]}, now it is {value}")

    def _read_table(self, file: Mapping[str, NDArray[Any]], kind: str) -> HistoryTable:
        names = vars(no_rows(self.kept, self.dim))
        return HistoryTable(Rows(*(file[f"{kind}.{name}"] for name in names)), self.buckets)


def _as_bytes(values: object) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(values).encode(), np.uint8)
