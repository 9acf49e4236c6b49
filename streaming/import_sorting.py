"""Rows of any order, sorted by event time in bounded memory.

Rows are kept on disk as sorted runs. Event times sampled from all runs cut the
log into stretches of about as many rows; a stretch is gathered from every run by
binary search, sorted, and handed out. In memory are one run or one stretch: about
ROWS impressions, more where more of them share one event time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from streaming.impressions import EVENT_TIME

ROWS = 262_144
_SAMPLE = 256  # one event time in so many is kept to choose the cuts


class EventTimeSorter:
    """Add batches of one schema, then take the sorted stretches; equal times keep their order."""

    def __init__(self, folder: Path, rows: int = ROWS) -> None:
        self._folder = folder
        self._rows = rows
        self._waiting: list[pa.RecordBatch] = []
        self._runs: list[Path] = []
        self._samples: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._waiting.append(batch)
        if sum(b.num_rows for b in self._waiting) >= self._rows:
            self._write_run()

    def _write_run(self) -> None:
        run = _sorted(self._waiting)
        self._waiting = []
        path = self._folder / f"run-{len(self._runs):06d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, run.schema) as writer:
            writer.write_batch(run)
        self._runs.append(path)
        self._samples.append(_times(run)[:: min(_SAMPLE, self._rows)].copy())

    def stretches(self) -> Iterator[pa.RecordBatch]:
        """Everything that was added, in order of event time; the runs are removed after."""
        if self._waiting:
            self._write_run()
        if not self._runs:
            return
        runs = [pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0) for path in self._runs]
        times = [_times(run) for run in runs]
        samples = np.sort(np.concatenate(self._samples))
        cuts = np.unique(samples[:: max(self._rows // _SAMPLE, 1)][1:])
        begins = [0] * len(runs)
        for cut in [*cuts.tolist(), None]:
            ends = [len(t) if cut is None else int(np.searchsorted(t, cut)) for t in times]
            parts = [
                run.slice(b, e - b) for run, b, e in zip(runs, begins, ends, strict=True) if e > b
            ]
            begins = ends
            if parts:
                yield _sorted(parts)
        del runs, times
        for path in self._runs:
            path.unlink()


def _times(batch: pa.RecordBatch) -> np.ndarray:
    return batch.column(EVENT_TIME).to_numpy()


def _sorted(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    whole = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    times = _times(whole)
    if (times[1:] >= times[:-1]).all():
        return whole
    return whole.take(pa.array(np.argsort(times, kind="stable")))
