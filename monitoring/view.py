"""The live view: a :class:`Snapshot` as text for a terminal, or as one line for a pipe. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from monitoring import chart, text
from monitoring.hand_downs import mean_gain
from monitoring.snapshot import FLOOR, LevelState, ProcessState, Snapshot, TableState

_STYLES = {"model": "bold cyan", "ceiling": "yellow", "floor": "red", "": ""}
_STATE_STYLES = {"running": "green", "starting": "yellow", "stalled": "yellow", "dead": "bold red"}
_BAR = 7
_CHART_HEIGHT = (5, 16)
_NARROW = 64
_WIDE = 110
_LEVEL_COLUMNS = ("level", "learnt", "per s", "lag", "behind", "loss", "NE", "COPC", "CTR")


class View:
    """A rich renderable that fits itself into the console: 80 x 24 and anything wider."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from render(
            self.snapshot, options.max_width, options.height or 24, options.ascii_only
        )


def render(snapshot: Snapshot, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """Lines of at most `width` columns, about `height` of them."""
    narrow = width < _NARROW
    side_width = 0 if narrow else 44 if width >= _WIDE else 30
    side = [*_processes(snapshot.processes, ascii_only), Text(), *_tables(snapshot, ascii_only)]
    above = [*_folded(_header(snapshot), width), *_levels(snapshot.levels), Text()]
    words = [*_transfer(snapshot), _dead_letters(snapshot), *_notes(snapshot.processes)]
    if snapshot.message:
        words.append(Text(snapshot.message, style="bold"))
    below = [Text(), *(part for made in words for part in _folded(made, width))]
    # Title, axis and dates are three more lines; the last line stays free for the cursor.
    room = height - len(above) - len(below) - 4 - (len(side) + 1 if narrow else 0)
    rows = min(max(room, _CHART_HEIGHT[0]), _CHART_HEIGHT[1])
    plot = _chart(snapshot, width - side_width - (0 if narrow else 2), rows, ascii_only)
    if narrow:
        body = [*plot, Text(), *side]
    else:
        body = _beside(plot, side, width - side_width)
    lines = [*above, *body, *below]
    for line in lines:
        if ascii_only:
            line.plain = text.plain(line.plain)
        line.no_wrap = True
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines


def line(snapshot: Snapshot) -> str:
    """The snapshot in one line, for a pipe or a log file: no colours, no control codes."""
    model, ceiling = snapshot.gauc
    alive = sum(process.state == "running" for process in snapshot.processes)
    parts = [
        time.strftime("%H:%M:%S", time.localtime(snapshot.at)),
        f"running {alive}/{len(snapshot.processes)}",
        f"kafka {snapshot.kafka or 'unknown'}",
    ]
    for level in snapshot.levels:
        parts += [
            f"{level.level} event {text.event_time(level.event_time)}",
            f"learnt {text.count(level.impressions)} ({text.count(level.per_second)}/s)",
            f"lag {text.count(level.lag_records)} records {text.seconds(level.lag_seconds)}",
        ]
    parts.append(f"gauc {text.ratio(model)} ceiling {text.ratio(ceiling)} floor {FLOOR}")
    if shown := snapshot.shown:
        parts += [f"{table.name} {text.percent(table.occupancy)}" for table in shown.tables]
    if snapshot.hand_downs:
        parts.append(f"hand-downs seen {len(snapshot.hand_downs)}, {_effects(snapshot)}")
    parts.append(f"dead letters {text.count(sum(snapshot.dead_letters.values()))}")
    troubled = [p for p in snapshot.processes if p.state != "running"]
    parts += [f"{process.name}: {process.state}" for process in troubled]
    if snapshot.message:
        parts.append(snapshot.message)
    return " | ".join(parts)


def _header(snapshot: Snapshot) -> Text:
    reached = max(
        (v.event_time for v in snapshot.levels if v.event_time == v.event_time), default=0
    )
    made = Text().append("ecdctr", style="bold")
    made.append(time.strftime("  %H:%M:%S", time.localtime(snapshot.at)), style="dim")
    style = {"up": "green", "down": "bold red"}.get(snapshot.kafka, "default")
    made.append("  Kafka ").append(snapshot.kafka or text.UNKNOWN, style=style)
    made.append("  event ").append(text.event_time(reached or math.nan), style="bold")
    if snapshot.produced:
        made.append(f"  produced {text.count(sum(snapshot.produced.values()))}")
        made.append(f" ({text.count(snapshot.produced_per_second)}/s)")
    return made


def _levels(levels: Iterable[LevelState]) -> list[Text]:
    widths = (7, 9, 8, 7, 8, 7, 7, 7, 6)
    lines = [_row(_LEVEL_COLUMNS, widths, "dim").append("  model saved", style="dim")]
    for level in levels:
        values = (
            level.level,
            text.count(level.impressions),
            text.count(level.per_second),
            text.count(level.lag_records),
            text.seconds(level.lag_seconds),
            text.ratio(level.loss),
            text.ratio(level.normalized_entropy),
            text.ratio(level.copc),
            text.UNKNOWN if math.isnan(level.ctr) else f"{100 * level.ctr:.1f}%",
        )
        lines.append(_row(values, widths).append(f"  {_model(level)}"))
    return lines


def _model(level: LevelState) -> str:
    if math.isnan(level.model_version):
        return text.UNKNOWN
    return f"v{level.model_version:.0f} {text.seconds(level.checkpoint_age_seconds)}"


def _row(values: Iterable[str], widths: Iterable[int], style: str = "") -> Text:
    first, *rest = zip(values, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(value.rjust(width) for value, width in rest)]
    return Text("".join(cells), style=style)


def _processes(processes: Iterable[ProcessState], ascii_only: bool) -> list[Text]:
    lines = [Text("processes", style="dim")]
    up, down = ("*", "x") if ascii_only else ("●", "✗")
    for process in processes:
        style = _STATE_STYLES.get(process.state, "")
        made = Text(down if process.state == "dead" else up, style=style)
        made.append(f" {process.name[:13]:<13}", style="default")
        made.append(f" {process.state}", style=style)
        if not math.isnan(process.age_seconds):
            made.append(f" {text.seconds(process.age_seconds)}", style="default")
        lines.append(made)
    return lines


def _notes(processes: Iterable[ProcessState]) -> list[Text]:
    """What is wrong with whom: too long for a column."""
    return [
        Text(f"{process.name} ", style="dim").append(process.note, style="default")
        for process in processes
        if process.note
    ]


def _tables(snapshot: Snapshot, ascii_only: bool) -> list[Text]:
    tables = snapshot.shown.tables if snapshot.shown else ()
    lines = [Text(f"{snapshot.level} rows in use, evicted", style="dim")] if tables else []
    return lines + [_table(table, ascii_only) for table in tables]


def _table(table: TableState, ascii_only: bool) -> Text:
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    share = 0.0 if math.isnan(table.occupancy) else min(max(table.occupancy, 0.0), 1.0)
    filled = math.ceil(share * _BAR)
    made = Text(f"{table.name[:11]:<12}")
    made.append(full * filled, style="cyan").append(empty * (_BAR - filled), style="dim")
    return made.append(f"{text.percent(table.occupancy):>5} {text.short(table.evictions)}")


def _transfer(snapshot: Snapshot) -> list[Text]:
    """What the level of the chart got from the others; nothing where there are no others."""
    histories, hand_downs = Text(), Text()
    for level in snapshot.levels:
        if not math.isnan(level.history):
            age = level.history_age_seconds
            since = f"{text.seconds(age)} old" if not age < 0 else f"{text.seconds(-age)} ahead"
            histories.append(f"{level.level} history ", style="dim")
            histories.append(f"{text.percent(level.history)}, {since}  ", style="default")
    if snapshot.hand_downs:
        hand_downs.append("hand-downs seen ", style="dim")
        hand_downs.append(f"{len(snapshot.hand_downs)}, {_effects(snapshot)}", style="default")
    return [made for made in (histories, hand_downs) if made.plain]


def _effects(snapshot: Snapshot) -> str:
    known = [e for e in snapshot.hand_downs if not math.isnan(e.after)]
    if not known:
        return f"last {text.event_time(snapshot.hand_downs[-1].boundary / 1000)}"
    last, (gain, number) = known[-1], mean_gain(snapshot.hand_downs)
    words = f"GAUC {text.ratio(last.before)} -> {text.ratio(last.after)} around the last one"
    return words + f", {gain:+.3f} in the mean of {number}" if number > 1 else words


def _dead_letters(snapshot: Snapshot) -> Text:
    counts = {reason: n for reason, n in snapshot.dead_letters.items() if n}
    made = Text("dead letters ", style="dim")
    if not counts:
        made.append("none", style="default")
    else:
        worst = sorted(counts.items(), key=lambda item: -item[1])
        made.append(text.count(sum(counts.values())), style="bold yellow")
        made.append("  " + " · ".join(f"{r} {text.count(n)}" for r, n in worst), style="default")
    for name in ("late", "repeated", "lost"):
        total = sum(getattr(level, name) for level in snapshot.levels)
        made.append(f"  {name} {text.count(total)}" if total else "", style="default")
    return made


def _chart(snapshot: Snapshot, width: int, height: int, ascii_only: bool) -> list[Text]:
    glyphs = chart.ASCII if ascii_only else chart.UNICODE
    model, ceiling = snapshot.gauc
    title = Text("GAUC ", style="bold")
    curve = "*" if ascii_only else "⠶"
    title.append(f"{curve} {snapshot.level} {text.ratio(model)}", _STYLES["model"])
    title.append(f"  {glyphs.ceiling} ceiling {text.ratio(ceiling)}", _STYLES["ceiling"])
    title.append(f"  {glyphs.floor} floor {FLOOR}", _STYLES["floor"])
    points = snapshot.points
    canvas = chart.draw(
        [point.model for point in points],
        [point.ceiling for point in points],
        FLOOR,
        width - 5,
        height,
        ascii_only,
    )
    lines = [title, *(_chart_row(canvas, row, glyphs) for row in range(height))]
    lines.append(Text(f"    {glyphs.corner}{glyphs.base * (width - 5)}", style="dim"))
    return [*lines, _dates(snapshot, width)]


def _chart_row(canvas: chart.Canvas, row: int, glyphs: chart.Glyphs) -> Text:
    tick = canvas.tick(row)
    made = Text(f"{tick:.1f} {glyphs.axis}" if tick is not None else f"    {glyphs.bar}")
    made.stylize("dim")
    for glyph, kind in zip(canvas.text[row], canvas.kinds[row], strict=True):
        made.append(glyph, style=_STYLES[kind])
    return made


def _dates(snapshot: Snapshot, width: int) -> Text:
    points = snapshot.points
    if not points:
        return Text("     no predictions yet", style="dim")
    first, last = (text.event_time(p.event_time / 1000, False) for p in (points[0], points[-1]))
    unknown = all(math.isnan(point.ceiling) for point in points)
    middle = "ceiling not known" if unknown else ""
    return Text(f"     {first}{middle:^{max(width - 25, 1)}}{last}", style="dim")


def _folded(made: Text, width: int) -> list[Text]:
    """Broken between words where it is longer than a line."""
    words, cuts, begin = made.plain, [], 0
    while len(words) - begin > width:
        cut = words.rfind(" ", begin, begin + width + 1) + 1
        if cut <= begin:  # a word that is longer than a line
            break
        cuts.append(cut)
        begin = cut
    parts = list(made.divide(cuts))
    for part in parts:
        part.rstrip()
    return parts


def _beside(left: list[Text], right: list[Text], column: int) -> list[Text]:
    """The two lists as two columns; the longer decides how many lines there are."""
    lines = []
    for index in range(max(len(left), len(right))):
        made = left[index].copy() if index < len(left) else Text()
        made.pad_right(max(column - made.cell_len, 0))
        lines.append(made.append_text(right[index]) if index < len(right) else made)
    return lines
