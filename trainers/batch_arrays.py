"""From Arrow columns to what TorchRec reads, without a Python loop over rows; NumPy alone.

No PyTorch in here: the process that reads the log makes these arrays, and is without it.

Legend: B impressions, F sparse features, N numeric features, V values in all bags.

The jagged layout, here with B = 3, a single-valued feature and a list:

    impression      user_id   recent_items
        0              7        [4, 9]
        1              3        []
        2              7        [2]

    keys     = [user_id, recent_items]
    lengths  = [1, 1, 1,   2, 0, 1]         F x B, features first
    values   = [7, 3, 7,   4, 9, 2]         V, in the order of lengths

A value that is missing is an empty bag, and so is everything in a padding row,
whose weight is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embeddings.ids import place_in_rows, spread
from streaming.impressions import CLICK, Feature, ImpressionSchema


@dataclass(frozen=True)
class BatchArrays:
    """B impressions as the model reads them; the first ``rows`` are real, the rest padding."""

    values_V: np.ndarray  # int64
    lengths_B: dict[int, np.ndarray]  # int32, of the features (by position) that have not
    # one value in every impression
    numeric_BN: np.ndarray  # float32
    label_B: np.ndarray  # float32, 0 or 1
    weight_B: np.ndarray  # float32, 0 for padding
    rows: int
    domain_B: np.ndarray | None  # int64, where the model has BatchNorms for each

    def lengths_FB(self, features: int) -> np.ndarray:
        """int32; most of it is ones, so it is made where it is needed."""
        lengths_FB = np.ones((features, len(self.label_B)), np.int32)
        for f, length_B in self.lengths_B.items():
            lengths_FB[f] = length_B
        return lengths_FB


class ArrayMaker:
    """Makes canonical rows a batch's arrays.

    Ids of managed tables are spread over the 63-bit space, which managed collision
    and row-wise sharding rely on; the values of hashed tables become rows of theirs.

    Args:
        hashed: feature to the number of rows, of hashed tables.
        domain: the column that says which BatchNorm an impression takes; None: there is one.
    """

    def __init__(
        self, schema: ImpressionSchema, hashed: Mapping[str, int], domain: str | None
    ) -> None:
        self._sparse, self._numeric, self._domain = schema.sparse, schema.numeric, domain
        # Neighbours that are treated alike are treated at once, where they lie.
        self._alike = [
            (table_rows, len(list(features)))
            for table_rows, features in groupby(self._sparse, lambda f: hashed.get(f.name))
        ]

    @property
    def keys(self) -> list[str]:
        """The sparse features, in the order of their values."""
        return [feature.name for feature in self._sparse]

    def __call__(self, rows: pa.RecordBatch, pad_to: int | None = None) -> BatchArrays:
        """``rows`` as a batch of ``pad_to`` (default: as many as there are) impressions.

        Raises:
            ValueError: there are more rows than ``pad_to``.
        """
        count = rows.num_rows
        size = count if pad_to is None else pad_to
        if count > size:
            raise ValueError(f"{count} impressions do not fit a batch of {size}")
        label_B = np.zeros(size, np.float32)
        label_B[:count] = rows.column(CLICK).to_numpy(zero_copy_only=False)
        weight_B = np.ones(size, np.float32)
        weight_B[count:] = 0.0
        values_V, lengths_B = self._jagged(rows, size)
        return BatchArrays(
            values_V=values_V,
            lengths_B=lengths_B,
            numeric_BN=_numeric(rows, self._numeric, size),
            label_B=label_B,
            weight_B=weight_B,
            rows=count,
            domain_B=_domain(rows, self._domain, size) if self._domain else None,
        )

    def _jagged(self, rows: pa.RecordBatch, size: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        lengths_B, bags, ends = {}, [], [0]
        for f, feature in enumerate(self._sparse):
            bag, length = _bags(rows.column(feature.name))
            if length is not None or rows.num_rows < size:
                lengths_B[f] = length_B = np.zeros(size, np.int32)
                length_B[: rows.num_rows] = 1 if length is None else length
            bags.append(bag)
            ends.append(ends[-1] + len(bag))
        values_V = np.concatenate(bags)
        first = 0
        for table_rows, features in self._alike:
            part = values_V[ends[first] : ends[first + features]]
            if table_rows is None:
                part[:] = spread(part)
            else:
                place_in_rows(part, table_rows)
            first += features
        return values_V, lengths_B


def _domain(rows: pa.RecordBatch, name: str, size: int) -> np.ndarray:
    domain_B = np.zeros(size, np.int64)
    domain_B[: rows.num_rows] = rows.column(name).to_numpy()
    return domain_B


def _bags(column: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """All values of a column, and how many each row has; None: one each."""
    if pa.types.is_list(column.type):
        length = pc.fill_null(pc.list_value_length(column), 0)
        return column.flatten().to_numpy(zero_copy_only=False), length.to_numpy()
    if column.null_count:
        present = column.is_valid().to_numpy(zero_copy_only=False)
        return column.drop_null().to_numpy(), present
    return column.to_numpy(), None


def _numeric(rows: pa.RecordBatch, features: tuple[Feature, ...], size: int) -> np.ndarray:
    """[B, N] sign(x) ln(1 + |x|): ages and counts have long tails, and crosses multiply them."""
    numeric_BN = np.zeros((size, len(features)), np.float32)
    for n, feature in enumerate(features):
        column = pc.fill_null(rows.column(feature.name), 0.0)
        numeric_BN[: rows.num_rows, n] = column.to_numpy(zero_copy_only=False)
    return np.copysign(np.log1p(np.abs(numeric_BN)), numeric_BN)
