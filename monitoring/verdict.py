"""What a run came to, in sentences. Pure."""

from __future__ import annotations

from monitoring.metrics import Interval
from monitoring.window import WindowMetrics


def verdict(
    metrics: WindowMetrics,
    interval: Interval,
    floor: float,
    *,
    written: int,
    learnt: int,
    repeated: int,
    batch: int,
) -> tuple[list[str], bool]:
    """Sentences for the terminal, and whether the model beat ``floor``.

    It did when the 95 % interval of the last window's GAUC lies above it. ``written``,
    ``learnt`` (each once) and ``repeated`` (after restarts, left out) are impressions; a
    live trainer lets what does not fill a ``batch`` wait.
    """
    beaten = interval.low > floor
    waiting = written - learnt
    return [
        f"{learnt:,} of {written:,} ads predicted and learnt, each once"
        + _rest(waiting, batch)
        + (f"; {repeated:,} predicted again after restarts, left out" if repeated else ""),
        f"GAUC of the last {metrics.impressions:,} ads: {metrics.gauc:.3f} "
        f"(95 % interval {interval.low:.3f} to {interval.high:.3f}); "
        f"floor {floor:.3f}, ceiling {metrics.gauc_ceiling:.3f}",
        "the model beat the floor" if beaten else "the model did NOT beat the floor",
    ], beaten


def _rest(waiting: int, batch: int) -> str:
    if waiting <= 0:
        return ""
    return f" ({waiting:,} {'wait for a full batch' if waiting < batch else 'not in the time'})"
