"""What a run came to, in sentences. Pure."""

from __future__ import annotations

import math

from monitoring import text
from monitoring.metrics import Interval
from monitoring.snapshot import Snapshot
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
    held_back: float = 0.0,
) -> tuple[list[str], bool]:
    """Sentences for the terminal, and whether the model beat ``floor``.

    It did when the 95 % interval of the last window's GAUC lies above it. ``written``,
    ``learnt`` (each once) and ``repeated`` (after restarts, left out) are impressions; a
    live trainer lets what does not fill a ``batch`` wait. ``held_back`` is the share that is
    predicted and never learnt.
    """
    beaten = interval.low > floor
    waiting = written - learnt
    return [
        f"{learnt:,} of {written:,} ads predicted and learnt, each once"
        + (
            f" ({held_back:.0%} held back from learning, to measure forgetting)"
            if held_back
            else ""
        )
        + _rest(waiting, batch)
        + (f"; {repeated:,} predicted again after restarts, left out" if repeated else ""),
        f"GAUC of the last {metrics.impressions:,} ads: {metrics.gauc:.3f} "
        f"(95 % interval {interval.low:.3f} to {interval.high:.3f}); "
        f"floor {floor:.3f}, ceiling {metrics.gauc_ceiling:.3f}",
        "the model beat the floor" if beaten else "the model did NOT beat the floor",
    ], beaten


def other_levels(snapshot: Snapshot) -> list[str]:
    """A sentence for each level but the chart's: how far it came, and what A-CTR had of it."""
    shown, sentences = snapshot.shown, []
    for level in snapshot.levels:
        if level.level == snapshot.level:
            continue
        unsaved = math.isnan(level.model_version)
        words = "no version yet" if unsaved else f"version {level.model_version:,.0f}"
        words = f"{level.level}: {words}, learnt up to event time "
        words += f"{text.event_time(level.event_time)}, GAUC {text.ratio(level.gauc)}"
        if level.lag_records > 0:
            words += f"; {level.lag_records:,.0f} records behind"
        if level.level == "cpm" and snapshot.hand_downs:
            words += f"; {len(snapshot.hand_downs)} hand-downs taken over since this start"
        if level.level == "tpm" and shown is not None and not math.isnan(shown.history):
            words += f"; {text.percent(shown.history)} of the last ads had a history from it"
        sentences.append(words)
    return sentences


def _rest(waiting: int, batch: int) -> str:
    if waiting <= 0:
        return ""
    return f" ({waiting:,} {'wait for a full batch' if waiting < batch else 'not in the time'})"
