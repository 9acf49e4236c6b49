"""What a person sees of a market being written: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from streaming.market_config import MarketConfig

_LINE_SECONDS = 10.0


class MarketProgress:
    """Counts impressions written by this run, and shows the market's day."""

    def __init__(self, config: MarketConfig) -> None:
        self._config = config
        self._natural = self._ads = 0
        self._days = 0.0
        self._began = self._line_at = time.monotonic()
        self._bar: Progress | None = None
        if sys.stdout.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns)
            self._task = self._bar.add_task("starting", total=float(config.days))

    def __enter__(self) -> MarketProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, slot: int, share: float, natural: int, ads: int) -> None:
        """``natural`` and ``ads`` more were written; ``share`` of the slot is done."""
        self._natural += natural
        self._ads += ads
        self._days = (slot + share) / self._config.slots_per_day
        if self._bar is not None:
            self._bar.update(self._task, completed=self._days, description=self._text())
        elif time.monotonic() - self._line_at >= _LINE_SECONDS:
            self._line_at = time.monotonic()
            click.echo(self._text())

    def _text(self) -> str:
        now = self._config.start + timedelta(days=int(self._days))
        return f"{now}  day {self._days:.1f} of {self._config.days}  {self._counts()}"

    def _counts(self) -> str:
        rate = (self._natural + self._ads) / max(time.monotonic() - self._began, 1e-9)
        return f"{self._natural:,} natural, {self._ads:,} ads, {rate:,.0f}/s"

    def finish(self, what: str, stopped: bool) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        end = "stopped" if stopped else "done"
        nothing = not (stopped or self._natural or self._ads)
        click.echo(f"{end}: {self._counts()}, {what}" + (" before" if nothing else ""))
