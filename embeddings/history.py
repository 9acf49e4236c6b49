"""Historical embeddings: the last periods' vectors of every user and item, merged and combined.

At the end of a period TPM sends the vectors of all users and items seen in it, bucket
by bucket: a :class:`Snapshot`. Merged, a bucket's snapshots make a :class:`Window`,
which is the same whatever their order and however often each came. What readers get
is made of a window by :func:`publish`.

    entity   period ends, newest first     vectors
      3      [ Mar 31, Feb 28, Jan 31 ]    [ v, v, v ]
      7      [ Feb 28,      0,      0 ]    [ v, 0, 0 ]     seen in February only
      9      [ Mar 31, Jan 31,      0 ]    [ v, v, 0 ]     not seen in February

Legend: N entities, M those of a snapshot, H periods, K versions or vectors kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embeddings.history_settings import HistoryConfig
from embeddings.ids import spread

KINDS = ("user", "item")
"""The kinds of entities that have a history."""

_ID_BITS = 63


def bucket_of(ids_N: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """[N] bucket of each id, from the top bits of its spread: buckets are ranges of spread ids."""
    # Of 63 bits the upper 32 say it finely enough, and the product stays within 64.
    return ((spread(ids_N) >> (_ID_BITS - 32)) * buckets) >> 32


def bucket_starts(buckets: int) -> NDArray[np.int64]:
    """[buckets] the least spread id of each bucket."""
    return np.array([-(-(b << 32) // buckets) << (_ID_BITS - 32) for b in range(buckets)])


@dataclass(frozen=True)
class Snapshot:
    """One bucket's vectors at the end of a period, of the entities seen in it (maybe none).

    Raises:
        ValueError: parts that do not fit each other.
    """

    kind: str
    bucket: int
    period_end: int  # ms, event time
    ids_N: NDArray[np.int64]  # ascending
    vectors_ND: NDArray[np.float16]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a snapshot of '{self.kind}': expected one of {', '.join(KINDS)}")
        if self.period_end <= 0:
            raise ValueError(f"a snapshot's period end is {self.period_end} ms")
        if self.vectors_ND.ndim != 2 or len(self.vectors_ND) != len(self.ids_N):
            raise ValueError(f"{len(self.ids_N)} ids, vectors of shape {self.vectors_ND.shape}")
        _require_ascending(self.ids_N)

    @property
    def dim(self) -> int:
        return int(self.vectors_ND.shape[1])


@dataclass(frozen=True)
class Window:
    """The newest H periods of each entity of a bucket; or K vectors of each, as published.

    Raises:
        ValueError: parts that do not fit each other.
    """

    ids_N: NDArray[np.int64]  # ascending
    period_ends_NH: NDArray[np.int64]  # ms, newest first; 0: none
    vectors_NHD: NDArray[np.float16]  # zeros where there is none
    newest_period_end: int = 0  # ms, of all that was merged, also where nobody was seen; 0: none

    def __post_init__(self) -> None:
        shape = (len(self.ids_N), self.slots)
        if self.period_ends_NH.shape != shape or self.vectors_NHD.shape[:2] != shape:
            raise ValueError(
                f"{len(self.ids_N)} ids, period ends of shape {self.period_ends_NH.shape}, "
                f"vectors of shape {self.vectors_NHD.shape}"
            )
        _require_ascending(self.ids_N)

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def slots(self) -> int:
        """H, or K."""
        return int(self.period_ends_NH.shape[-1])

    @property
    def dim(self) -> int:
        return int(self.vectors_NHD.shape[-1])


def _require_ascending(ids_N: NDArray[np.int64]) -> None:
    if np.any(ids_N[1:] <= ids_N[:-1]):
        raise ValueError("ids are not in ascending order, each once")


def empty_window(slots: int, dim: int) -> Window:
    """Nobody seen yet; ``slots`` is :attr:`HistoryConfig.window` for one that is merged into."""
    return Window(
        np.empty(0, np.int64), np.empty((0, slots), np.int64), np.empty((0, slots, dim), np.float16)
    )


def merge(window: Window, snapshot: Snapshot) -> Window:
    """``window`` with ``snapshot``: the H newest period ends of each entity.

    The order of snapshots makes no difference, nor does one that comes twice; a period
    end that is there already is replaced.

    Raises:
        ValueError: the vectors' widths differ.
    """
    if snapshot.dim != window.dim:
        raise ValueError(f"a snapshot of width {snapshot.dim} for a window of width {window.dim}")
    newest = max(window.newest_period_end, snapshot.period_end)
    if not len(snapshot.ids_N):
        return replace(window, newest_period_end=newest)
    ids_N, ends_NH, vectors_NHD = _make_room(window, snapshot.ids_N)
    at_M = np.searchsorted(ids_N, snapshot.ids_N)
    ends_MH, vectors_MHD = _insert(ends_NH[at_M], vectors_NHD[at_M], snapshot)
    ends_NH[at_M], vectors_NHD[at_M] = ends_MH, vectors_MHD
    return Window(ids_N, ends_NH, vectors_NHD, newest)


def _make_room(
    window: Window, ids_M: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float16]]:
    """The window's columns, copied, with empty rows for those of ``ids_M`` that are new."""
    ids_N = np.union1d(window.ids_N, ids_M)
    ends_NH = np.zeros((len(ids_N), window.slots), np.int64)
    vectors_NHD = np.zeros((len(ids_N), window.slots, window.dim), np.float16)
    before = np.searchsorted(ids_N, window.ids_N)
    ends_NH[before], vectors_NHD[before] = window.period_ends_NH, window.vectors_NHD
    return ids_N, ends_NH, vectors_NHD


def _insert(
    ends_MH: NDArray[np.int64], vectors_MHD: NDArray[np.float16], snapshot: Snapshot
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """The H newest of each entity's periods and the snapshot's."""
    slots = ends_MH.shape[1]
    known = ends_MH == snapshot.period_end
    ends_MH[known] = 0
    new_M1 = np.full((len(ends_MH), 1), snapshot.period_end)
    ends = np.concatenate([new_M1, ends_MH], axis=1)
    vectors = np.concatenate([snapshot.vectors_ND[:, None], vectors_MHD], axis=1)
    order_MH = np.argsort(-ends, axis=1, kind="stable")[:, :slots]
    kept_MH = np.take_along_axis(ends, order_MH, axis=1)
    kept_MHD = np.take_along_axis(vectors, order_MH[:, :, None], axis=1)
    kept_MHD[kept_MH == 0] = 0
    return kept_MH, kept_MHD


def expire(window: Window, now_ms: int, ttl_ms: int) -> Window:
    """``window`` without what was seen longer than ``ttl_ms`` before ``now_ms``, nor who was not.

    Each period end has to go by itself, so that when this was done, and whether an
    entity was seen again later, makes no difference.
    """
    stale_NH = (window.period_ends_NH < now_ms - ttl_ms) & (window.period_ends_NH > 0)
    if not stale_NH.any():
        return window
    stays_N = ((window.period_ends_NH > 0) & ~stale_NH).any(axis=1)
    gone_NH = stale_NH[stays_N]
    ends_NH, vectors_NHD = window.period_ends_NH[stays_N], window.vectors_NHD[stays_N]
    ends_NH[gone_NH], vectors_NHD[gone_NH] = 0, 0
    return Window(window.ids_N[stays_N], ends_NH, vectors_NHD, window.newest_period_end)


def resize(window: Window, slots: int) -> Window:
    """``window`` with room for ``slots`` periods: the oldest go, or empty slots come."""
    if slots == window.slots:
        return window
    ends_NH = np.zeros((len(window), slots), np.int64)
    vectors_NHD = np.zeros((len(window), slots, window.dim), np.float16)
    common = min(slots, window.slots)
    ends_NH[:, :common] = window.period_ends_NH[:, :common]
    vectors_NHD[:, :common] = window.vectors_NHD[:, :common]
    return Window(window.ids_N, ends_NH, vectors_NHD, window.newest_period_end)


def publish(window: Window, config: HistoryConfig) -> Window:
    """What readers get of a ``window``: :attr:`HistoryConfig.kept` vectors of each entity.

    With attention these are the vectors themselves. Otherwise there is one for each of
    the newest period ends of an entity: what its history came to as of then, over the
    vectors of that period end and the `periods` - 1 before it.

    Raises:
        ValueError: ``window`` does not have :attr:`HistoryConfig.window` slots.
    """
    if window.slots != config.window:
        raise ValueError(
            f"a window of {window.slots} periods where {config.window} are needed: "
            "see HistoryConfig.window and resize()"
        )
    if not config.aggregated:
        return window
    return Window(
        window.ids_N,
        np.ascontiguousarray(window.period_ends_NH[:, : config.kept]),
        _aggregate(window, config),
        window.newest_period_end,
    )


def _aggregate(window: Window, config: HistoryConfig) -> NDArray[np.float16]:
    """[N, K, D] for each of the K newest period ends the weighted mean of it and those before."""
    vectors_NHD = window.vectors_NHD.astype(np.float32)
    result_NKD = np.empty((len(window), config.kept, window.dim), np.float16)
    for k in range(config.kept):
        weight_NH = _weights(window.period_ends_NH[:, k : k + config.periods], config)
        sum_ND = np.zeros((len(window), window.dim), np.float32)
        # Period by period, newest first: the same sum to the last bit, however many entities.
        for h in range(config.periods):
            sum_ND += weight_NH[:, h, None] * vectors_NHD[:, k + h]
        result_NKD[:, k] = sum_ND
    return result_NKD


def _weights(ends_NH: NDArray[np.int64], config: HistoryConfig) -> NDArray[np.float32]:
    """[N, H] summing to 1 where there is a period at all, else 0.

    By recency: halved with every `half_life` periods between a period end and the newest one.
    """
    weight_NH = (ends_NH > 0).astype(np.float64)
    if config.aggregation == "recency":
        age_NH = (ends_NH[:, :1] - ends_NH) / (config.period_ms * config.half_life)
        weight_NH *= np.exp2(-age_NH)
    total_N1 = weight_NH.sum(axis=1, keepdims=True)
    return (weight_NH / np.where(total_N1 > 0, total_N1, 1.0)).astype(np.float32)


def of_period(window: Window, period_end: int, kind: str, bucket: int) -> Snapshot:
    """The snapshot of ``period_end``, as far as the ``window`` still has it."""
    row_M, slot_M = np.nonzero(window.period_ends_NH == period_end)
    return Snapshot(
        kind, bucket, period_end, window.ids_N[row_M], window.vectors_NHD[row_M, slot_M]
    )
