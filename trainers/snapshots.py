"""TPM's periods: at the end of each, the vectors of all users and items seen in it go out.

A period closes when the watermark passes its end, before any batch that holds something
beyond it is learnt. An impression belongs to the period of its event time; one that comes
when that is closed is learnt and reopens nothing. A crash before the checkpoint that says
so closes the period again, with the same bytes.

An item counts as seen when it is shown, and when it stands in a feature that TPM reads
from the items' table. Ranks note what they read; every few batches they tell each other,
and each keeps the ids whose rows it holds. A bucket is put together on rank 0.

Legend: L impressions, N ids, K of them of one bucket, D width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from embeddings.history import KINDS, Snapshot, bucket_of
from embeddings.history_settings import HistoryConfig
from embeddings.resharding import belongs
from streaming.impressions import EVENT_TIME, Batch, ImpressionSchema
from trainers.entities import Entities, Vectors
from trainers.learner import Learner
from trainers.loop import Learn
from trainers.ranks import Ranks
from trainers.schedule import Schedule
from trainers.seen import Ids, Parts, Seen

MARK = "period"
"""In a checkpoint's marks: the end of the last closed period, ms."""


@dataclass(frozen=True)
class Closed:
    """A period's end, as rank 0 tells it."""

    period_end: int  # ms
    entities: dict[str, int]  # vectors sent, by kind
    seconds: float


class Snapshots:
    """The loop's `Boundary` of a level that has periods.

    Args:
        send: takes the snapshots on rank 0, all buckets of both kinds for every period.
        told: is told on rank 0 of every period after it was sent.
        closed: end of the last closed period, ms; 0: the log begins.
        seen: by kind, the (spread) ids seen since, on all ranks.
        schedule: when periods end; default: every `history.period_hours`.
    """

    def __init__(
        self,
        learner: Learner,
        schema: ImpressionSchema,
        config: HistoryConfig,
        ranks: Ranks,
        send: Callable[[Snapshot], None],
        told: Callable[[Closed], None],
        closed: int = 0,
        seen: Mapping[str, Ids] | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.schedule, self.closed = schedule or Schedule(config.period_ms), closed
        self._learner, self._ranks, self._buckets = learner, ranks, config.buckets
        self._send, self._told = send, told
        self._columns = {kind: _columns(schema, kind) for kind in KINDS}
        tables = zip(KINDS, schema.entity_tables, strict=True)
        self._entities = {kind: Entities(learner, table) for kind, table in tables}
        self._seen = {kind: Seen() for kind in KINDS}
        for kind, ids in (seen or {}).items():
            self._seen[kind].merge(self._own(ids))

    # -- noting who is seen ---------------------------------------------------------------

    def watching(self, learn: Learn) -> Learn:
        """``learn``, noting of every batch that it has learnt who was seen."""

        def learn_and_note(
            batches: Iterator[Batch | None],
        ) -> Iterator[tuple[np.ndarray, float]]:
            under_way: deque[Batch | None] = deque()
            for result in learn(_remembering(batches, under_way)):
                self._learnt(under_way.popleft())
                yield result

        return learn_and_note

    def _learnt(self, batch: Batch | None) -> None:
        self._note(batch, self.closed)
        if self._learner.steps_done % self._learner.config.model.eviction_interval == 0:
            self._settle()

    def _note(self, batch: Batch | None, begin: int, end: int | None = None) -> None:
        """Who was seen at ``begin`` <= event time < ``end``, ms."""
        if batch is None:
            return
        time_L = batch.rows.column(EVENT_TIME).to_numpy()
        within_L = time_L >= begin if end is None else (time_L >= begin) & (time_L < end)
        rows = batch.rows if within_L.all() else batch.rows.filter(pa.array(within_L))
        for kind, columns in self._columns.items():
            for column in columns:
                self._seen[kind].add(_ids(rows.column(column)))

    def _settle(self) -> None:
        """Pass ids on to the ranks that hold their rows, or would hold them."""
        for seen in self._seen.values():
            for ids_N in self._ranks.exchange(seen.take_new()):
                seen.merge(self._own(ids_N))

    def _own(self, ids_N: Ids) -> Ids:
        if self._ranks.size == 1:
            return ids_N
        return ids_N[belongs(torch.from_numpy(ids_N), self._ranks.rank, self._ranks.size).numpy()]

    def state(self) -> dict[str, Parts]:
        """What a checkpoint must hold of this rank; nothing may be under way."""
        for kind, seen in self._seen.items():
            if seen.crowded:
                seen.keep(self._entities[kind].within_reach)
        return {kind: seen.parts() for kind, seen in self._seen.items()}

    # -- closing periods ------------------------------------------------------------------

    def due(self, batch: Batch) -> bool:
        return not self.closed or self.schedule.due(self.closed, batch.watermark)

    def act(self, batch: Batch | None) -> dict[str, int]:
        watermark = max(self._ranks.exchange(0 if batch is None else batch.watermark))
        if not self.closed:  # what lies before the first impressions was never open
            self.closed = self.schedule.begin(watermark)
        for end in self.schedule.crossed(self.closed, watermark):
            self._close(batch, end)
        return {MARK: self.closed} | self.schedule.marks()

    def _close(self, batch: Batch | None, end: int) -> None:
        started = time.perf_counter()
        self._note(batch, self.closed, end)
        self._settle()
        entities = {kind: self._publish(kind, end) for kind in KINDS}
        for seen in self._seen.values():
            seen.clear()
        self.closed = end
        if self._ranks.rank == 0:
            self._told(Closed(end, entities, time.perf_counter() - started))

    def _publish(self, kind: str, end: int) -> int:
        """Send the snapshots of ``kind``; how many vectors, on rank 0."""
        ids_N, vectors_ND = self._entities[kind].vectors(self._seen[kind].ids())
        bucket_N = bucket_of(ids_N, self._buckets)
        order = np.lexsort((ids_N, bucket_N))
        starts = np.searchsorted(bucket_N[order], np.arange(self._buckets + 1))
        sent = 0
        for bucket in range(self._buckets):
            own = order[starts[bucket] : starts[bucket + 1]]
            parts = self._ranks.collect((ids_N[own], vectors_ND[own]))
            if parts is not None:
                ids_K, vectors_KD = _put_together(parts)
                self._send(Snapshot(kind, bucket, end, ids_K, vectors_KD))
                sent += len(ids_K)
        return sent


def _columns(schema: ImpressionSchema, kind: str) -> list[str]:
    """The features whose values are ids of ``kind``."""
    own, other = schema.user, schema.item
    if kind == "item":
        own, other = other, own
    table = next(f.table_name for f in schema.features if f.name == own)
    return [f.name for f in schema.sparse if f.table_name == table and f.name != other]


def _ids(column: pa.Array) -> Ids:
    values = column.flatten() if pa.types.is_list(column.type) else column.drop_null()
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _put_together(parts: list[tuple[Ids, Vectors]]) -> tuple[Ids, Vectors]:
    """One bucket of several ranks, by ascending id."""
    ids_K = np.concatenate([ids for ids, _ in parts])
    order = np.argsort(ids_K)
    return ids_K[order], np.concatenate([vectors for _, vectors in parts])[order]


def _remembering(
    batches: Iterator[Batch | None], into: deque[Batch | None]
) -> Iterator[Batch | None]:
    for batch in batches:
        into.append(batch)
        yield batch
