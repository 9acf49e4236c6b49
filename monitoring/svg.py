"""Pictures as inline SVG: a plot's frame, its lines and its legend. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

COLOURS = (
    "#1b6ca8", "#d1495b", "#2e8b57", "#8e5bb5", "#e08e0b",
    "#4aa5a0", "#9c6644", "#c2478f", "#6c757d", "#3a5a40",
)  # fmt: skip
WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 40

Points = Sequence[tuple[float, float]]


class Frame:
    """A plot's area and its scales."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        width: int = WIDTH,
        height: int = HEIGHT,
    ) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.parts: list[str] = []

    def px(self, x: float) -> float:
        low, high = self.x
        return LEFT + (x - low) / ((high - low) or 1) * (self.width - LEFT - RIGHT)

    def py(self, y: float) -> float:
        low, high = self.y
        return self.height - BOTTOM - (y - low) / ((high - low) or 1) * (self.height - TOP - BOTTOM)

    def grid(self, y_ticks: Sequence[float], x_ticks: Sequence[tuple[float, str]]) -> None:
        for tick in y_ticks:
            y = self.py(tick)
            self.add(f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{y:.1f}" '
                     f'y2="{y:.1f}"/>')  # fmt: skip
            self.text(LEFT - 6, y + 4, f"{tick:.3g}", "end")
        for tick, label in x_ticks:
            self.text(self.px(tick), self.height - BOTTOM + 18, label, "middle")

    def path(self, points: Points, colour: str, title: str, dashed: bool = False) -> None:
        """A line that NaN interrupts."""
        steps, pen = [], "M"
        for x, y in points:
            if math.isnan(y):
                pen = "M"
                continue
            steps.append(f"{pen}{self.px(x):.1f},{self.py(y):.1f}")
            pen = "L"
        style = ' stroke-dasharray="5 4"' if dashed else ""
        self.add(f'<path d="{" ".join(steps)}" fill="none" stroke="{colour}" stroke-width="2"'
                 f"{style}><title>{escape(title)}</title></path>")  # fmt: skip

    def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def add(self, part: str) -> None:
        self.parts.append(part)

    def svg(self) -> str:
        return svg(self.width, self.height, self.parts)


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">\n{body}\n</svg>'


def legend(names: Sequence[str]) -> str:
    """Names with the colours that all pictures give them."""
    items = (
        f'<span class="key"><i style="background:{colour(i)}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]
