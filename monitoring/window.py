"""The last N impressions with what was predicted for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring import metrics

COLUMNS: dict[str, type] = {
    "user": np.int64,
    "click": np.int8,
    "probability": np.float32,
    "event_time": np.int64,  # ms
    "truth": np.float32,  # true click probability; NaN: not known
}


@dataclass(frozen=True)
class WindowMetrics:
    """Metrics of one window; NaN where the window does not define them."""

    gauc: float
    gauc_unweighted: float
    groups_used: int
    groups_skipped: int
    auc: float
    log_loss: float
    normalized_entropy: float
    copc: float
    ctr: float
    impressions: int
    gauc_ceiling: float  # GAUC of the true probabilities; NaN unless all are known


class Window:
    """Ring buffers over the newest `size` impressions, in the order they were given.

    `update` only copies; what `metrics` costs is paid when it is called.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window of {size} impressions holds nothing")
        self.size = size
        self.seen = 0  # impressions ever given
        self._rings: dict[str, NDArray] = {
            name: np.zeros(size, dtype) for name, dtype in COLUMNS.items()
        }

    def __len__(self) -> int:
        return min(self.seen, self.size)

    def update(
        self,
        user: ArrayLike,
        click: ArrayLike,
        probability: ArrayLike,
        event_time: ArrayLike,
        truth: ArrayLike | None = None,
    ) -> None:
        """Add a batch [n], oldest first.

        Raises:
            ValueError: lengths differ, or a probability is NaN.
        """
        n = len(np.asarray(user))
        given = {
            "user": user,
            "click": click,
            "probability": probability,
            "event_time": event_time,
            "truth": np.full(n, np.nan, np.float32) if truth is None else truth,
        }
        batch: dict[str, NDArray] = {
            name: np.asarray(given[name], COLUMNS[name]) for name in COLUMNS
        }
        for name, column in batch.items():
            if column.shape != (n,):
                raise ValueError(f"{name} has shape {column.shape}, user has ({n},)")
        if np.isnan(batch["probability"]).any():
            raise ValueError("a probability is NaN")
        newest = min(n, self.size)
        start = (self.seen + n - newest) % self.size
        before_end = min(newest, self.size - start)  # the rest goes on at the ring's beginning
        for name, column in batch.items():
            kept, ring = column[n - newest :], self._rings[name]
            ring[start : start + before_end] = kept[:before_end]
            ring[: newest - before_end] = kept[before_end:]
        self.seen += n

    def columns(self) -> dict[str, NDArray]:
        """Copies of what the window holds, oldest first."""
        at = np.arange(self.seen - len(self), self.seen) % self.size
        return {name: ring[at] for name, ring in self._rings.items()}

    def metrics(self) -> WindowMetrics:
        held = self.columns()
        return measure(held["user"], held["click"], held["probability"], held["truth"])

    def state(self) -> dict[str, NDArray]:
        """All there is to know, for a checkpoint; see :meth:`from_state`."""
        return {**self.columns(), "size": np.array(self.size), "seen": np.array(self.seen)}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray], size: int | None = None) -> Window:
        """A window that goes on bit-equal. A new `size` keeps the newest impressions."""
        window = cls(int(state["size"]) if size is None else size)
        held = {name: np.asarray(state[name]) for name in COLUMNS}
        window.seen = int(state["seen"]) - len(held["user"])
        window.update(**held)
        return window


def measure(
    user: NDArray, click: NDArray, probability: NDArray, truth: NDArray | None = None
) -> WindowMetrics:
    """Every metric of n impressions, each column [n]. Raises as :mod:`monitoring.metrics`."""
    groups, auc = metrics.gauc_and_auc(user, click, probability)
    loss = metrics.log_loss(click, probability)
    known = truth is not None and len(truth) > 0 and not np.isnan(truth).any()
    return WindowMetrics(
        gauc=groups.weighted,
        gauc_unweighted=groups.unweighted,
        groups_used=groups.groups_used,
        groups_skipped=groups.groups_skipped,
        auc=auc,
        log_loss=loss,
        normalized_entropy=metrics.over_entropy(loss, click),
        copc=metrics.copc(click, probability),
        ctr=float(np.mean(click)) if len(click) else metrics.NAN,
        impressions=len(click),
        gauc_ceiling=(
            metrics.gauc(user, click, truth).weighted
            if truth is not None and known
            else metrics.NAN
        ),
    )
