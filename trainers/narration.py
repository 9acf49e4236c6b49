"""What a trainer says in its terminal or log: where it begins, how it goes, how it ended."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime

import click

from monitoring.window import WindowMetrics
from trainers.checkpoint import Progress


def say(words: str) -> None:
    """Print; a full disk under the log file or a reader that left must not stop the trainer."""
    with contextlib.suppress(OSError, UnicodeError):
        click.echo(words)


def beginning(level: str, topic: str, device: str, ranks: int, progress: Progress) -> str:
    where = f"{device}, {ranks} rank{'s' if ranks > 1 else ''}"
    if progress.step:
        since = f"going on after {progress.impressions:,} impressions (version {progress.step})"
    else:
        since = "starting anew"
    return f"train {level}: reading {topic} on {where}; {since}"


def going(progress: Progress, per_second: float, lag_records: int, metrics: WindowMetrics) -> str:
    return (
        f"{progress.impressions:,} learnt ({per_second:,.0f}/s), event time "
        f"{_event_time(progress.watermark)}, lag {lag_records:,} records, {_quality(metrics)}"
    )


def closing(period_end: int, entities: Mapping[str, int], seconds: float) -> str:
    sent = ", ".join(f"{count:,} {kind}s" for kind, count in entities.items())
    return f"period up to {_event_time(period_end)} closed: vectors of {sent} in {seconds:.2f} s"


def ending(progress: Progress, metrics: WindowMetrics, bad: Mapping[str, int]) -> list[str]:
    """Sentences; the last one is a hint when nothing at all could be used."""
    lines = [f"done: {progress.impressions:,} impressions learnt, {_quality(metrics)}"]
    if bad:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(bad.items()))
        lines.append(f"dead letters of this run: {reasons}; 'ecdctr dead-letters list' shows them")
    if bad and not progress.impressions:
        lines.append(
            "nothing fitted the schema: does [impressions] describe this log? 'ecdctr import' "
            "wrote a schema.toml to give with --config"
        )
    return lines


def _quality(metrics: WindowMetrics) -> str:
    if math.isnan(metrics.gauc):
        return f"GAUC undefined over the last {metrics.impressions:,}"
    return f"GAUC {metrics.gauc:.3f} over the last {metrics.impressions:,}"


def _event_time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if ms else "-"
