"""Numbers, ages and dates as a person reads them; what is not known is a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime

UNKNOWN = "–"


def count(value: float) -> str:
    """`950`, `12,345`, `1.23 M`."""
    if math.isnan(value):
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) < 1e6 else f"{value / 1e6:,.2f} M"


def short(value: float) -> str:
    """`950`, `12k`, `3M`: at most four characters up to a thousand million."""
    if math.isnan(value):
        return UNKNOWN
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


def ratio(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.3f}"


def change(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:+.3f}"


def percent(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{100 * value:.0f}%"


def seconds(value: float) -> str:
    """`0.4 s`, `12 s`, `3 min`, `5 h`, `9 d`."""
    if math.isnan(value):
        return UNKNOWN
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if abs(value) < limit:
            return f"{value:.1f} s" if abs(value) < 9.95 else f"{value / size:.0f} {unit}"
    return f"{value / 86_400:.0f} d"


def event_time(value: float, clock: bool = True) -> str:
    """UTC, from seconds since 1970."""
    if math.isnan(value):
        return UNKNOWN
    moment = datetime.fromtimestamp(value, UTC)
    return moment.strftime("%Y-%m-%d %H:%M" if clock else "%Y-%m-%d")


def plain(text: str) -> str:
    """The same for terminals without Unicode."""
    return text.replace(UNKNOWN, "-").replace("·", "|")
