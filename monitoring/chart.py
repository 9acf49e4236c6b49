"""A small line chart as text: one line of braille dots between two reference lines. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BRAILLE = 0x2800


@dataclass(frozen=True)
class Glyphs:
    floor: str
    ceiling: str
    axis: str
    bar: str
    corner: str
    base: str


UNICODE = Glyphs(floor="─", ceiling="┄", axis="┤", bar="│", corner="└", base="─")
ASCII = Glyphs(floor="-", ceiling=".", axis="+", bar="|", corner="+", base="-")


@dataclass(frozen=True)
class Canvas:
    """`height` rows of `width` characters, and of which kind each of them is."""

    text: list[str]
    kinds: list[list[str]]  # "", "model", "floor", "ceiling", by row and column
    low: float
    high: float

    def tick(self, row: int) -> float | None:
        """The whole tenth that lies in a row, if one does."""
        height = len(self.text)
        for tenth in range(11):
            value = tenth / 10
            if self.low <= value <= self.high and _row(value, self.low, self.high, height) == row:
                return value
        return None


def draw(
    model: Sequence[float],
    ceiling: Sequence[float],
    floor: float,
    width: int,
    height: int,
    ascii_only: bool = False,
) -> Canvas:
    """The curves over equal steps, stretched to `width` columns; NaN leaves a gap."""
    glyphs = ASCII if ascii_only else UNICODE
    low, high = _range([*model, *ceiling, floor])
    text = [[" "] * width for _ in range(height)]
    kinds = [[""] * width for _ in range(height)]

    def put(row: int, column: int, glyph: str, kind: str) -> None:
        text[row][column], kinds[row][column] = glyph, kind

    for column in range(width):
        put(_row(floor, low, high, height), column, glyphs.floor, "floor")
    for column, value in enumerate(_stretched(ceiling, width)):
        if not math.isnan(value):
            put(_row(value, low, high, height), column, glyphs.ceiling, "ceiling")
    if ascii_only:
        for column, value in enumerate(_stretched(model, width)):
            if not math.isnan(value):
                put(_row(value, low, high, height), column, "*", "model")
    else:
        cells = _braille(_stretched(model, 2 * width), low, high, width, height)
        for row, column in np.argwhere(cells).tolist():
            put(row, column, chr(_BRAILLE + int(cells[row, column])), "model")
    return Canvas(["".join(row) for row in text], kinds, low, high)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Whole twentieths around all values, with the floor off the edge."""
    known = [v for v in values if not math.isnan(v)]
    low = math.floor((min(known) - 0.02) * 20) / 20
    return low, max(math.ceil((max(known) + 0.01) * 20) / 20, low + 0.2)


def _row(value: float, low: float, high: float, height: int) -> int:
    return min(max(int((high - value) / (high - low) * height), 0), height - 1)


def _stretched(values: Sequence[float], width: int) -> NDArray[np.float64]:
    """`values` at `width` equally spaced places, straight lines between."""
    if len(values) < 2:
        return np.full(width, values[0] if len(values) else np.nan)
    places = np.linspace(0, len(values) - 1, width)
    return np.interp(places, np.arange(len(values)), np.asarray(values, np.float64))


def _braille(
    values: NDArray[np.float64], low: float, high: float, width: int, height: int
) -> NDArray[np.int64]:
    """Dot patterns [height, width] of a line through 2 x width values."""
    cells = np.zeros((height, width), np.int64)
    previous = -1
    for x, value in enumerate(values.tolist()):
        if math.isnan(value):
            previous = -1
            continue
        y = _row(value, low, high, 4 * height)
        first, last = (y, y) if previous < 0 else sorted((y, previous))
        for dot in range(first, last + 1):
            # The stroke from the last dot belongs to this column, its start excepted.
            if dot != previous or y == previous:
                cells[dot // 4, x // 2] |= int(_DOTS[dot % 4, x % 2])
        previous = y
    return cells
