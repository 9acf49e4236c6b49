"""Pictures for a report as inline SVG: lines over time, heat map, calibration, bars. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from monitoring.metrics import Bin
from monitoring.svg import HEIGHT, LEFT, TOP, WIDTH, Frame, colour, svg, ticks


def over_time(
    times: Sequence[int], curves: dict[str, Sequence[float]], ceiling: Sequence[float]
) -> str:
    """A line for each of ``curves``, ``times`` in ms, with a dashed ceiling where one is known."""
    values = [v for curve in [*curves.values(), ceiling] for v in curve if not math.isnan(v)]
    if not values:
        return "<p>Nothing to draw: no window had a user with a click and a non-click.</p>"
    margin = 0.05 * (max(values) - min(values)) or 0.01
    frame = Frame((times[0], times[-1]), (min(values) - margin, max(values) + margin))
    every = max(1, len(times) // 6)
    frame.grid(ticks(*frame.y), [(t, _day(t)) for t in times[::every]])
    frame.path(list(zip(times, ceiling, strict=True)), "#555", "ceiling", dashed=True)
    for i, (name, curve) in enumerate(curves.items()):
        frame.path(list(zip(times, curve, strict=True)), colour(i), name)
    return frame.svg()


def over_steps(labels: Sequence[str], curves: dict[str, Sequence[float]], of: str) -> str:
    """A line for each of ``curves`` over equally spaced, named steps; a picture by itself."""
    values = [v for curve in curves.values() for v in curve if not math.isnan(v)]
    margin = 0.05 * (max(values) - min(values)) or 0.01
    frame = Frame((0, len(labels) - 1), (min(values) - margin, max(values) + margin))
    frame.grid(ticks(*frame.y), list(enumerate(labels)))
    for i, (name, curve) in enumerate(curves.items()):
        frame.path(list(enumerate(curve)), colour(i), name)
        frame.text(LEFT + 8, TOP + 14 + 16 * i, f"{name}: {of}")
        frame.parts[-1] = frame.parts[-1].replace("<text", f'<text style="fill:{colour(i)}"', 1)
    return _alone(frame)


def trade_off(costs: dict[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """Points of each of ``costs`` against two of them, the least at the bottom left; by itself."""
    points = [point for of in costs.values() for point in of]
    high = [max(p[axis] for p in points) * 1.05 or 1.0 for axis in (0, 1)]
    frame = Frame((0, high[0]), (0, high[1]))
    frame.grid(ticks(*frame.y), [(tick, f"{tick:.3g}") for tick in ticks(*frame.x)])
    for i, (name, of) in enumerate(costs.items()):
        for px, py in of:
            frame.add(f'<circle cx="{frame.px(px):.1f}" cy="{frame.py(py):.1f}" r="4" '
                      f'fill="{colour(i)}"><title>{escape(name)}</title></circle>')  # fmt: skip
        frame.text(WIDTH - 110, TOP + 14 + 16 * i, name)
        frame.parts[-1] = frame.parts[-1].replace("<text", f'<text style="fill:{colour(i)}"', 1)
    frame.text(WIDTH / 2, HEIGHT - 6, x, "middle")
    frame.text(6, 10, y)
    return _alone(frame)


def _alone(frame: Frame) -> str:
    """As a file of its own, without a page's style sheet."""
    alone = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11"'
    style = "<style>.grid { stroke: #ddd } text { fill: #444 }</style>"
    return frame.svg().replace("<svg", f"<svg {alone}", 1).replace(">", f">\n{style}", 1)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%d %b %Y")


def calibration(bins: dict[str, Sequence[Bin]]) -> str:
    """Share clicked against predicted, with the diagonal of a model that is right."""
    points = [p for of in bins.values() for b in of for p in (b.predicted, b.clicked)]
    high = max(points, default=1.0) * 1.05 or 1.0
    frame = Frame((0, high), (0, high), width=440)
    frame.grid(ticks(0, high), [(t, f"{t:.3g}") for t in ticks(0, high, 4)])
    frame.path([(0, 0), (high, high)], "#999", "as predicted", dashed=True)
    for i, (name, of) in enumerate(bins.items()):
        frame.path([(b.predicted, b.clicked) for b in of], colour(i), name)
    frame.text(220, HEIGHT - 4, "predicted", "middle")
    return frame.svg()


def heat_map(matrix: Sequence[Sequence[float]], low: float, high: float) -> str:
    """Rows: learnt up to period i; columns: period j; the values written into the cells."""
    cell, size = 46, len(matrix)
    parts = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if math.isnan(value):
                continue
            x, y = 40 + j * cell, 24 + i * cell
            share = (value - low) / ((high - low) or 1)
            parts.append(f'<rect x="{x}" y="{y}" width="{cell - 2}" height="{cell - 2}" '
                         f'fill="{_shade(share)}"/>')  # fmt: skip
            ink = "#fff" if share > 0.55 else "#222"
            parts.append(f'<text x="{x + cell / 2 - 1}" y="{y + cell / 2 + 3}" '
                         f'text-anchor="middle" style="fill:{ink}">{value:.3f}</text>')  # fmt: skip
        parts.append(f'<text x="32" y="{24 + i * cell + cell / 2 + 3}" text-anchor="end">'
                     f"{i + 1}</text>")  # fmt: skip
        parts.append(f'<text x="{40 + i * cell + cell / 2}" y="16" text-anchor="middle">'
                     f"{i + 1}</text>")  # fmt: skip
    return svg(50 + size * cell, 34 + size * cell, parts)


def _shade(share: float) -> str:
    """From pale to dark blue."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(a + share * (b - a)) for a, b in ((238, 20), (243, 74), (248, 128)))
    return f"#{red:02x}{green:02x}{blue:02x}"


def bars(values: dict[str, float]) -> str:
    """Horizontal, from 0; NaN is left out."""
    known = {name: v for name, v in values.items() if not math.isnan(v)}
    if not known:
        return "<p>Not known: it takes the variant ads-only and the true probabilities.</p>"
    low, high = min(0.0, *known.values()), max(0.01, *known.values())
    row, label, width = 26, 230, WIDTH - 230 - 70
    zero = label + (0 - low) / (high - low) * width
    parts = []
    for k, (name, value) in enumerate(known.items()):
        end, y = label + (value - low) / (high - low) * width, 4 + k * row
        parts.append(f'<rect x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" '
                     f'height="{row - 8}" fill="{colour(list(values).index(name))}"/>')  # fmt: skip
        parts.append(f'<text x="{label - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text x="{max(zero, end) + 6:.1f}" y="{y + 13}">{value:.2f}</text>')
    return svg(WIDTH, 8 + row * len(known), parts)
