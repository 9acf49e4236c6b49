"""A replay's figures as rows: on the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from trainers.replay.figures import Figures, Line

LEVELS = ("tpm", "cpm", "actr")
Row = dict[str, Any]


def rows(figures: Figures) -> list[Row]:
    """One a variant, in whole precision; what is not known is NaN."""
    return [_row(line) for line in figures.lines]


def _row(line: Line) -> Row:
    row: Row = {
        "variant": line.name,
        "gauc": line.gauc,
        "gauc_unweighted": line.gauc_unweighted,
        "auc": line.auc,
        "ne": line.ne,
        "copc": line.copc,
        "gap_closed": line.gap_closed,
        "bwt": line.forgetting.backward_transfer,
        "forgetting": line.forgetting.forgetting,
    }
    for level in LEVELS:
        spent = line.spent.get(level)
        row[f"{level}_samples"] = spent.samples if spent else 0
        row[f"{level}_seconds"] = spent.seconds if spent else 0.0
        if level != "actr":
            row[f"{level}_bytes"] = spent.handed_down if spent else 0
    return row


def pair_rows(figures: Figures) -> list[Row]:
    """One a pair: GAUC of the first less that of the second, and its 95 % interval."""
    return [
        {
            "first": first,
            "second": second,
            "difference": found.difference,
            "low": found.interval.low,
            "high": found.interval.high,
            "clear": found.clear,
        }
        for (first, second), found in figures.pairs.items()
    ]


def as_csv(rows: list[Row]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(figures: Figures, about: dict[str, Any]) -> str:
    """Everything that the report is drawn from; what is not known is null."""
    whole = {
        **about,
        "impressions": figures.impressions,
        "users": figures.users,
        "ceiling": figures.ceiling,
        "variants": rows(figures),
        "pairs": pair_rows(figures),
        "windows": {
            "middle_ms": figures.times_W,
            "gauc": figures.curves_VW,
            "ceiling": figures.ceiling_W,
        },
        "calibration": {name: [asdict(b) for b in of] for name, of in figures.calibration.items()},
        "retained": {name: matrix.tolist() for name, matrix in figures.retained.items()},
    }
    return json.dumps(_known(whole), indent=1)


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def text_of(key: str, value: Any) -> str:
    """A cell for people."""
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if key.endswith("_seconds"):
        return f"{value:,.0f}"
    if key.endswith(("_samples", "_bytes")):
        return f"{value:,}"
    if key in ("gap_closed", "copc"):
        return f"{value:.2f}"
    if key in ("difference", "low", "high", "bwt", "forgetting"):
        return f"{value:+.4f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def terminal(title: str, rows: list[Row]) -> Table:
    """What fits a terminal; what each level spent is in the files."""
    table = Table(title=title, title_justify="left")
    keys = [key for key in rows[0] if not key.endswith(("_samples", "_seconds", "_bytes"))]
    for key in keys:
        right = not isinstance(rows[0][key], str)
        least = max(len(text_of(key, row[key])) for row in rows)
        heading = key.replace("_", " ")
        table.add_column(heading, justify="right" if right else "left", min_width=least)
    for row in rows:
        table.add_row(*(text_of(key, row[key]) for key in keys))
    return table
