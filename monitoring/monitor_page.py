"""The monitor's page: one moment as HTML that needs nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from monitoring import text
from monitoring.calibrated import EXPLAINED, HEADINGS, by_calibration, sentence
from monitoring.level_quality import WindowPoint
from monitoring.monitor_settings import label
from monitoring.monitor_told import LevelTold, Told
from monitoring.svg import Frame, colour, legend, ticks

_REFRESH_SECONDS = 5
_OLD_SECONDS = 30
"""When the page says how old it is: the monitor looks every ten seconds or so, if it can."""
_CHARTS = {
    "gauc": "GAUC",
    "normalized_entropy": "Normalized entropy",
    "copc": "COPC (clicks over predicted clicks)",
}
_WINDOW_HEADINGS = (
    "level", "window", "until", "GAUC", "unweighted", "users used", "skipped", "AUC", "NE",
    "log loss", "COPC", "CTR", "impressions",
)  # fmt: skip
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #5c6770; --line: #d9dee3; --back: #fff;
        --card: #f5f7f9; --bad: #b3261e; --good: #1e7d44; --mark: #fdf0ee }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --dim: #9aa5af; --line: #39424a; --back: #14181c; --card: #1d2328;
          --bad: #ff8a80; --good: #7bd39a; --mark: #3a2322 } }
body { font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; color: var(--ink);
       background: var(--back); max-width: 1160px; margin: 1.2rem auto; padding: 0 1rem }
h1 { font-size: 1.25rem; margin: 0 } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem }
p { margin: .3rem 0 } .dim { color: var(--dim) } .bad { color: var(--bad); font-weight: 600 }
.good { color: var(--good) }
.answer { background: var(--card); border-left: 4px solid var(--line); padding: .6rem .9rem;
          margin: .8rem 0; font-size: 1.05rem } .answer.off { border-color: var(--bad) }
.answer.ok { border-color: var(--good) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .18rem .42rem; border-bottom: 1px solid var(--line); text-align: right;
         white-space: nowrap } th { color: var(--dim); font-weight: 500 }
th:first-child, td:first-child { text-align: left } tr.worst td { background: var(--mark) }
.row { display: flex; flex-wrap: wrap; gap: 1rem 1.6rem } figure { margin: 0; flex: 1 1 280px }
figcaption { color: var(--dim) } svg { width: 100%; height: auto }
svg text { font: 11px system-ui, "DejaVu Sans", sans-serif; fill: var(--dim) }
.grid { stroke: var(--line) } .key { margin-right: 1.1rem }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em }
"""


def page(told: Told, now: float | None = None) -> str:
    """All of it, ``now`` (s since 1970); before the first look it says that it is starting."""
    now = time.time() if now is None else now
    starting = "<p>Starting; look again in a moment.</p>"
    body = "\n".join(_sections(told, now)) if told.levels else starting
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">'
        f"<title>ecdctr monitor</title><style>{_STYLE}</style></head>"
        f"<body>\n<h1>ecdctr monitor</h1>\n{body}\n</body></html>\n"
    )


def _sections(told: Told, now: float) -> Iterable[str]:
    ordered = by_calibration({one.level: one.quality.generations for one in told.levels})
    yield _head(told, now)
    state = "off" if any(one.worst for one in ordered) else "ok" if ordered else ""
    yield f'<p class="answer {state}">{escape(sentence(ordered))}</p>'
    yield "<h2>Over event time</h2>"
    yield _charts(told.levels)
    yield "<h2>Newest complete windows</h2>"
    yield _table(_WINDOW_HEADINGS, [row for one in told.levels for row in _window_rows(one)])
    yield "<h2>Published versions, worst calibrated first</h2>"
    marks = ["worst" if one.worst else "" for one in ordered]
    yield _table(HEADINGS, [one.cells for one in ordered], marks)
    yield f'<p class="dim">{escape(EXPLAINED)}</p>'
    if any(one.recalled for one in told.levels):
        yield "<h2>What the last version still knows of past periods</h2>"
        yield _past_periods(told.levels)
    yield "<h2>COPC by tenth of rising prediction, longest window</h2>"
    yield _deciles(told.levels)
    yield '<div class="row"><div><h2>From append to Kafka</h2>'
    yield _freshness(told)
    yield "</div><div><h2>Lag and losses</h2>"
    yield _topics(told)
    yield "</div><div><h2>Predictions</h2>"
    yield _counts(told.levels)
    yield "</div></div><h2>Last alarms</h2>"
    yield _alarms(told)


def _head(told: Told, now: float) -> str:
    newest = max((one.quality.newest for one in told.levels), default=0)
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(told.at))
    problem = f' <span class="bad">{escape(told.problem)}</span>' if told.problem else ""
    age = now - told.at
    old = f' <span class="bad">{text.seconds(age)} ago</span>' if age > _OLD_SECONDS else ""
    return (
        f'<p class="dim">{at}{old} · event time {text.event_time(newest / 1_000 or math.nan)}'
        f' · <a href="metrics">metrics</a>{problem}</p>'
    )


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()
) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    body = "".join(
        f'<tr class="{classes[i] if classes else ""}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    if not body:
        return '<p class="dim">Nothing yet.</p>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _window_rows(one: LevelTold) -> Iterable[tuple[str, ...]]:
    for window, point in one.quality.complete.items():
        m = point.metrics
        yield (
            one.level,
            label(window),
            text.event_time(point.end / 1_000),
            text.ratio(m.gauc),
            text.ratio(m.gauc_unweighted),
            text.count(m.groups_used),
            text.count(m.groups_skipped),
            text.ratio(m.auc),
            text.ratio(m.normalized_entropy),
            text.ratio(m.log_loss),
            text.ratio(m.copc),
            text.UNKNOWN if math.isnan(m.ctr) else f"{100 * m.ctr:.2f}%",
            text.count(m.impressions),
        )


# -- pictures -----------------------------------------------------------------------------


def _charts(levels: Sequence[LevelTold]) -> str:
    windows = sorted(levels[0].quality.points)
    window = windows[len(windows) // 2]
    curves = {one.level: one.quality.points[window] for one in levels}
    if not any(curves.values()):
        return f'<p class="dim">No window of {label(window)} is complete yet.</p>'
    figures = (
        f"<figure><figcaption>{escape(title)}, windows of {label(window)}</figcaption>"
        f"{_chart(curves, name)}</figure>"
        for name, title in _CHARTS.items()
    )
    return f'{legend(list(curves))}<div class="row">{"".join(figures)}</div>'


def _chart(curves: Mapping[str, Sequence[WindowPoint]], name: str) -> str:
    lines = {
        level: [(point.end, getattr(point.metrics, name)) for point in points]
        for level, points in curves.items()
    }
    values = [y for line in lines.values() for _, y in line if not math.isnan(y)]
    times = [x for line in lines.values() for x, _ in line]
    if not values:
        return '<p class="dim">Not defined in any window.</p>'
    low, high = _range(values)
    frame = Frame((min(times), max(times)), (low, high), width=370, height=200)
    frame.grid(ticks(low, high, 4), _time_ticks(min(times), max(times)))
    for i, (level, line) in enumerate(lines.items()):
        if len(line) == 1:
            line = [(line[0][0] - 1, line[0][1]), line[0]]
        # What lies outside is drawn along the edge.
        frame.path([(x, min(max(y, low), high)) for x, y in line], colour(i), level)
    return frame.svg()


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Most of the values: a single wild window must not flatten the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 50
    low, high = ordered[cut], ordered[-1 - cut]
    margin = 0.08 * (high - low) or 0.01
    return low - margin, high + margin


def _time_ticks(first: float, last: float) -> list[tuple[float, str]]:
    clock = "%d %b" if last - first > 3 * 86_400_000 else "%d %b %H:%M"
    places = [first + k * (last - first) / 3 for k in range(4)] if last > first else [first]
    # At the ends a label would hang over the picture's edge.
    inside = places[1:3] if len(places) == 4 else places
    return [(t, time.strftime(clock, time.gmtime(t / 1_000))) for t in inside]


# -- small tables -------------------------------------------------------------------------


def _past_periods(levels: Sequence[LevelTold]) -> str:
    found = [(one, one.recalled) for one in levels if one.recalled is not None]
    ages = max(len(recalled.gauc) for _, recalled in found)
    rows = [
        (one.level, str(one.published_version), text.change(recalled.backward_transfer),
         text.change(recalled.forgetting), *map(text.ratio, recalled.gauc),
         *[""] * (ages - len(recalled.gauc)))
        for one, recalled in found
    ]  # fmt: skip
    gauc = ("GAUC, newest", *(f"{age} before" for age in range(1, ages)))[:ages]
    return _table(("level", "version", "backward transfer", "forgetting", *gauc), rows)


def _deciles(levels: Sequence[LevelTold]) -> str:
    rows = [
        (one.level, *(text.ratio(found.copc) for found in one.quality.deciles))
        for one in levels
        if one.quality.deciles
    ]
    return _table(("level", *map(str, range(1, 11))), rows)


def _freshness(told: Told) -> str:
    rows = []
    for one in told.levels:
        for what, delays in (("learnt", one.learnt), ("published", one.published)):
            mean = delays.total / delays.count if delays.count else math.nan
            rows.append(
                (f"{one.level} {what}", text.seconds(mean), _bound(delays.within(0.95)),
                 text.count(delays.count))
            )  # fmt: skip
    published = [
        (f"{one.level} version {one.published_version}",
         f"{text.seconds(told.at - one.published_at / 1_000)} ago", "", "")
        for one in told.levels
        if one.published_version is not None
    ]  # fmt: skip
    return _table(("", "mean", "95% within", "records"), [*rows, *published])


def _bound(seconds: float) -> str:
    return "over 1 h" if math.isinf(seconds) else text.seconds(seconds)


def _topics(told: Told) -> str:
    rows = [
        (topic, text.count(lag), text.count(told.unreadable.get(topic, 0)),
         text.count(told.lost.get(topic, 0)))
        for topic, lag in told.lag.items()
    ]  # fmt: skip
    return _table(("topic", "lag, records", "unreadable", "lost"), rows)


def _counts(levels: Sequence[LevelTold]) -> str:
    rows = [
        (one.level, text.count(one.predictions), text.count(one.repeated), text.count(one.late),
         f"{100 * one.quality.sample:.3g}%")
        for one in levels
    ]  # fmt: skip
    return _table(("level", "read", "repeated", "late", "users held"), rows)


def _alarms(told: Told) -> str:
    if not told.alarms:
        return '<p class="dim">None.</p>'
    rows = [(text.event_time(alarm.event_time / 1_000), alarm.words) for alarm in told.alarms]
    return _table(("event time", "what"), rows)
