"""A delta on disk: one npz file a rank, of a few long arrays, as each array costs time.

    layout      JSON: [[table, T, D], ...] and [[dense weight, shape], ...]
    keys        ids or rows of all tables, one table after the other
    gone        as long
    values      fp32: the changes of all tables, then those of all dense weights

Legend: T rows or ids of a table that changed, D width of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers.table_changes import Changes, Columns

_PATTERN = "delta-*.npz"


def delta_path(directory: Path, rank: int) -> Path:
    return directory / f"delta-{rank:05d}.npz"


def write_delta(path: Path, tables: Mapping[str, Changes], dense: Columns) -> None:
    """Write one rank's changes.

    Raises:
        OSError: the disk is full or not writable.
        ValueError: a change is not finite: the model diverged.
    """
    changes = list(tables.values())
    layout = {
        "tables": [[name, *c.change_TD.shape] for name, c in tables.items()],
        "dense": [[name, list(change.shape)] for name, change in dense.items()],
    }
    values = _flat(torch.float32, *(c.change_TD for c in changes), *dense.values())
    if not torch.isfinite(values).all():
        raise ValueError("a change is not finite: the model diverged")
    np.savez(
        path,
        layout=np.frombuffer(json.dumps(layout).encode(), np.uint8),
        keys=_flat(torch.int64, *(c.keys_T for c in changes)).numpy(),
        gone=_flat(torch.bool, *(c.gone_T for c in changes)).numpy(),
        values=values.numpy(),
    )


def _flat(dtype: torch.dtype, *tensors: torch.Tensor) -> torch.Tensor:
    """All values, one tensor behind the other; there may be none."""
    nothing = torch.zeros(0, dtype=dtype)
    return torch.cat([nothing, *(tensor.reshape(-1).cpu() for tensor in tensors)])


def read_deltas(directory: Path) -> tuple[dict[str, Changes], Columns]:
    """What all ranks wrote, together.

    Raises:
        OSError, ValueError: it is not there, or is not a delta.
    """
    paths = sorted(directory.glob(_PATTERN))
    if not paths:
        raise FileNotFoundError(f"no delta in {directory}")
    parts: dict[str, list[Changes]] = {}
    dense: Columns = {}
    for path in paths:
        file = _File.read(path)
        for name, changes in file.tables():
            parts.setdefault(name, []).append(changes)
        dense |= file.dense()
    return {name: _together(of_ranks) for name, of_ranks in parts.items()}, dense


def _together(parts: list[Changes]) -> Changes:
    if len(parts) == 1:
        return parts[0]
    return Changes(
        torch.cat([part.keys_T for part in parts]),
        torch.cat([part.change_TD for part in parts]),
        torch.cat([part.gone_T for part in parts]),
    )


@dataclass(frozen=True)
class _File:
    layout: dict[str, list[Any]]
    keys: torch.Tensor
    gone: torch.Tensor
    values: torch.Tensor

    @classmethod
    def read(cls, path: Path) -> _File:
        with np.load(path, allow_pickle=False) as arrays:
            layout = json.loads(arrays["layout"].tobytes())
            return cls(layout, *(torch.from_numpy(arrays[n]) for n in ("keys", "gone", "values")))

    def tables(self) -> Iterator[tuple[str, Changes]]:
        shapes = [(rows, dim) for _, rows, dim in self.layout["tables"]]
        rows = [rows for rows, _ in shapes]
        columns = zip(
            self.layout["tables"],
            self.keys.split(rows),
            _shaped(self.values, shapes),
            self.gone.split(rows),
            strict=True,
        )
        return ((name, Changes(*parts)) for (name, _, _), *parts in columns)

    def dense(self) -> Columns:
        names, shapes = [n for n, _ in self.layout["dense"]], [s for _, s in self.layout["dense"]]
        before = sum(rows * dim for _, rows, dim in self.layout["tables"])
        return dict(zip(names, _shaped(self.values[before:], shapes), strict=True))


def _shaped(values: torch.Tensor, shapes: Iterable[Iterable[int]]) -> Iterator[torch.Tensor]:
    """Tensors of these ``shapes``, one behind the other."""
    start = 0
    for shape in map(torch.Size, shapes):
        yield values[start : start + shape.numel()].view(shape)
        start += shape.numel()
