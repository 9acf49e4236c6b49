"""The report of a replay: one HTML file that needs nothing else, and its table as data."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

from errors import UserError
from monitoring.svg import legend
from trainers.replay import svg
from trainers.replay.figures import Figures
from trainers.replay.tables import Row, as_csv, as_json, pair_rows, rows, text_of

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; color: #222;
       padding: 0 1rem; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block;
        overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right;
         white-space: nowrap }
th:first-child, td:first-child { text-align: left }
svg { max-width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #444 }
.grid { stroke: #e5e5e5 } .legend { margin: .2rem 0 }
.key { margin-right: 1.1rem; white-space: nowrap }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em }
.maps { display: flex; flex-wrap: wrap; gap: 1.5rem } figure { margin: 0 }
"""

HTML, TABLE, PAIRS, JSON = "report.html", "table.csv", "pairs.csv", "report.json"


def write_report(
    figures: Figures, about: dict[str, Any], explained: dict[str, str], folder: Path
) -> Path:
    """Write all files into ``folder``; returns the HTML's path.

    Args:
        about: what was replayed, for the head of the report.
        explained: variant to what it is.

    Raises:
        UserError: it cannot be written.
    """
    files = {
        HTML: html(figures, about, explained),
        TABLE: as_csv(rows(figures)),
        PAIRS: as_csv(pair_rows(figures)),
        JSON: as_json(figures, about),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    return folder / HTML


def html(figures: Figures, about: dict[str, Any], explained: dict[str, str]) -> str:
    names = [line.name for line in figures.lines]
    sections = [
        _head(figures, about),
        _table(rows(figures)),
        _definitions(explained),
        "<h2>GAUC over event time</h2>",
        legend(names),
        svg.over_time(figures.times_W, dict(figures.curves_VW), figures.ceiling_W),
        "<h2>Share of the gap closed</h2><p>From ads-only (0) to the true probabilities (1).</p>",
        svg.bars({line.name: line.gap_closed for line in figures.lines}),
        "<h2>Differences of GAUC</h2><p>The first less the second, with a 95 % interval from a "
        "bootstrap over users.</p>",
        _table(pair_rows(figures)) if figures.pairs else "<p>One variant only.</p>",
        "<h2>Forgetting</h2><p>GAUC on a held-back sample of period j (column) after learning up "
        "to period i (row).</p>",
        _heat_maps(figures),
        "<h2>Calibration</h2><p>Share clicked against the mean prediction, tenth by tenth.</p>",
        legend(names),
        svg.calibration(dict(figures.calibration)),
    ]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Replay</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _head(figures: Figures, about: dict[str, Any]) -> str:
    facts = "".join(f"<li>{escape(k)}: {escape(str(v))}</li>" for k, v in about.items())
    return (
        f"<h1>Replay</h1><ul>{facts}<li>figures over {figures.impressions:,} ad impressions, "
        f"each predicted before it was learnt, {figures.users:,} users with a click and a "
        f"non-click; ceiling (GAUC of the true probabilities): "
        f"{text_of('gauc', figures.ceiling)}</li></ul>"
    )


def _table(rows: list[Row]) -> str:
    head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text_of(k, v))}</td>" for k, v in row.items()) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _definitions(explained: dict[str, str]) -> str:
    items = "".join(
        f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in explained.items()
    )
    return f"<details><summary>What the variants are</summary><ul>{items}</ul></details>"


def _heat_maps(figures: Figures) -> str:
    values = [v for m in figures.retained.values() for v in m.reshape(-1).tolist()]
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return "<p>Nothing was held back, or no sample had a user with a click and a non-click.</p>"
    maps = (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f"{svg.heat_map(matrix.tolist(), min(known), max(known))}</figure>"
        for name, matrix in figures.retained.items()
    )
    return f'<div class="maps">{"".join(maps)}</div>'
