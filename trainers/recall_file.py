"""Samples and their scores in a checkpoint's directory: a file of each rank.

recall-00000.npz
    rows            an Arrow stream, as bytes: samples of past periods, then the open one
    history.0 ...   what the model was given besides, row by row; none where it reads none
    lengths         rows of each sample
    retained        R of the past periods
    facts           length of a period, ms; end of the last one, ms; halvings of the open one
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streaming.impressions import ImpressionSchema
from trainers.ranks import Ranks
from trainers.recall import RecallState
from trainers.samples import Held, joined

_HISTORY = "history."


def write_recall(state: RecallState, directory: Path, rank: int, schema: ImpressionSchema) -> None:
    """Raises OSError: the disk is full or not writable."""
    opened = joined(state.open, schema)
    whole = joined([*state.samples, opened], schema)
    arrays = {
        "rows": _bytes_of(whole.rows),
        "lengths": np.array([*map(len, state.samples), len(opened)]),
        "retained": state.retained,
        "facts": np.array([state.period_ms, state.closed, state.halvings]),
        **{f"{_HISTORY}{i}": part for i, part in enumerate(whole.history)},
    }
    np.savez(directory / f"recall-{rank:05d}.npz", **arrays)  # type: ignore[arg-type]


def read_recall(directory: Path, ranks: Ranks, schema: ImpressionSchema) -> RecallState | None:
    """What this rank goes on from: its share of what all ranks wrote; None: nothing was written.

    On another number of ranks than wrote it, files go to ranks as a whole.
    """
    paths = sorted(directory.glob("recall-*.npz"))
    if not paths:
        return None
    found = [_read(path, schema) for path in paths]
    own, first = found[ranks.rank :: ranks.size], found[0]
    return RecallState(
        first.period_ms,
        first.closed,
        first.retained,
        tuple(
            joined([state.samples[p] for state in own], schema) for p in range(len(first.samples))
        ),
        tuple(part for state in own for part in state.open),
        max((state.halvings for state in own), default=0),
    )


def _read(path: Path, schema: ImpressionSchema) -> RecallState:
    with np.load(path) as stored:
        history = [stored[f"{_HISTORY}{i}"] for i in range(_count(stored.files))]
        rows = _rows_of(stored["rows"], schema)
        bounds = [0, *accumulate(stored["lengths"].tolist())]
        retained, facts = stored["retained"], stored["facts"].tolist()
    whole = Held(rows, tuple(history))
    *samples, opened = (whole.slice(begin, end) for begin, end in pairwise(bounds))
    period_ms, closed, halvings = facts
    return RecallState(period_ms, closed, retained, tuple(samples), (opened,), halvings)


def _count(names: list[str]) -> int:
    return sum(name.startswith(_HISTORY) for name in names)


def _bytes_of(rows: pa.RecordBatch) -> NDArray[np.uint8]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _rows_of(stream: NDArray[np.uint8], schema: ImpressionSchema) -> pa.RecordBatch:
    """In the schema of now: whether a feature is optional may have changed."""
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        (rows,) = reader
    return pa.RecordBatch.from_arrays(rows.columns, schema=schema.arrow)
