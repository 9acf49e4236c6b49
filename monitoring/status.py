"""`ecdctr status`: every process of a run directory, live."""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live

from config import Config, configured
from errors import UserError
from monitoring.hand_downs import HandDowns
from monitoring.processes import Process, page_of, running
from monitoring.quality import QualityFollower, wait_until_read
from monitoring.scrape import SnapshotBuilder, kafka_state, scrape_all
from monitoring.series import Point
from monitoring.snapshot import Snapshot
from monitoring.sparing import Sparing
from monitoring.view import View, line
from settings import Loaded
from streaming.connection import KafkaConfig
from streaming.kafka_clients import resolve
from streaming.truth import Truth, truth_dir

_CATCH_UP_SECONDS = 5.0
_RATE_SECONDS = 1.0


@click.command("status")
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a frame.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two frames.",
)
@configured
def command(loaded: Loaded[Config], once: bool, as_json: bool, interval: float) -> None:
    """Show every process of a run directory: its state, throughput, lag and quality.

    In a terminal a live view, in a pipe one line a frame. Ends by Ctrl-C, or
    when the last process has ended.
    """
    # The view says itself that Kafka is away; kafka-python's words would tear it.
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console()
    try:
        with closing(Observer(loaded.config)) as observer:
            observer.require_processes()
            if once:
                _once(observer, console, as_json)
            elif console.is_terminal and not as_json:
                _live(observer, console, interval)
            else:
                for snapshot in frames(observer, interval):
                    click.echo(to_json(snapshot) if as_json else line(snapshot))
    except KeyboardInterrupt:
        pass
    finally:
        logging.disable(logging.NOTSET)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


class Observer:
    """Looks at a run directory: scrapes its processes and follows its predictions."""

    def __init__(self, config: Config, level: str = "actr") -> None:
        self._config, self._level = config, level
        self._builder = SnapshotBuilder()
        self.follower: QualityFollower | None = None
        """Of the level's predictions, once there is a Kafka to follow."""
        self._points = _Points()
        self._hand_downs = HandDowns()

    def processes(self) -> list[Process]:
        return running(self._config.run_dir)

    def snapshot(self, message: str = "") -> Snapshot:
        """Now; never fails for what a process or Kafka does. Without a message, the address of
        the monitor's page is one."""
        page = page_of(self._config.run_dir)
        message = message or (f"The monitor's page: {page}" if page else "")
        scrapes = scrape_all(self.processes())
        points = self._points.of(self.follower) if self.follower else ()
        snapshot = self._builder.build(
            scrapes, time.time(), kafka_state(self._kafka()), points, message
        )
        return self._with_hand_downs(replace(snapshot, level=self._level))

    def _with_hand_downs(self, snapshot: Snapshot) -> Snapshot:
        for level in snapshot.levels:
            if level.level == self._level and not math.isnan(level.hand_down):
                self._hand_downs.note(round(1000 * level.hand_down))
        if self.follower is None:
            return snapshot
        return replace(snapshot, hand_downs=self._hand_downs.effects(self.follower.between))

    def catch_up(self, timeout: float) -> None:
        """Read the predictions there are, for one frame."""
        follower = self._made_follower()
        if follower is not None:
            wait_until_read(follower, timeout)

    def follow(self) -> None:
        """Read predictions in the background as soon as there is a Kafka; call now and then."""
        if self.follower is None and (follower := self._made_follower()) is not None:
            follower.start()

    def finish_reading(self, timeout: float) -> QualityFollower | None:
        """Stop following in the background, read what is left, and hand the follower over."""
        if self.follower is not None:
            self.follower.close()
            wait_until_read(self.follower, timeout)
        return self.follower

    def close(self) -> None:
        if self.follower is not None:
            self.follower.close()

    def _kafka(self) -> KafkaConfig | None:
        try:
            return resolve(self._config.kafka, self._config.run_dir)
        except UserError:
            return None

    def _made_follower(self) -> QualityFollower | None:
        kafka = self._kafka()
        if kafka is None:
            return None
        truth = _MarketTruth(truth_dir(self._config.run_dir))
        self.follower = QualityFollower(
            kafka, self._config.topics, self._level, truth, self._config.monitoring
        )
        return self.follower

    def require_processes(self) -> None:
        """Raises UserError when nothing runs in the run directory."""
        known = self.processes()
        if any(process.alive for process in known):
            return
        dead = ", ".join(process.name for process in known)
        raise UserError(
            f"nothing runs in {self._config.run_dir}"
            + (f" any more (died: {dead})" if dead else "")
            + f"; {_elsewhere(self._config.run_dir)}"
        )


def _elsewhere(run_dir: Path) -> str:
    demo = run_dir / "demo"
    if any(process.alive for process in running(demo)):
        return f"a demo runs: --run-dir {demo} shows it"
    return "'ecdctr demo' starts everything, --run-dir looks elsewhere"


class _Points:
    """A follower's points, computed for at most a tenth of a core."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._sparing = Sparing()

    def of(self, follower: QualityFollower) -> list[Point]:
        if self._sparing.due:
            with self._sparing.turn():
                self._points = follower.points()
        return self._points


class _MarketTruth:
    """The market's true probabilities, once there is a market: it may start after us."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._truth: Truth | None = None

    def lookup(self, impression_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        if self._truth is None and self._directory.is_dir():
            self._truth = Truth(self._directory)
        if self._truth is None:
            return np.full(len(impression_ids), np.nan)
        return self._truth.lookup(impression_ids)


def frames(
    observer: Observer, interval: float, pause: Callable[[float], None] = time.sleep
) -> Iterator[Snapshot]:
    """Snapshots, `interval` seconds apart, until nothing runs any more."""
    while True:
        observer.follow()
        yield observer.snapshot()
        if not any(process.alive for process in observer.processes()):
            return
        pause(interval)


def to_json(snapshot: Snapshot) -> str:
    """One line; what is unknown is null."""
    return json.dumps(_without_nan(asdict(snapshot)), allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _once(observer: Observer, console: Console, as_json: bool) -> None:
    observer.snapshot()
    begin = time.monotonic()
    observer.catch_up(_CATCH_UP_SECONDS)
    # A rate needs two looks.
    time.sleep(max(0.0, _RATE_SECONDS - (time.monotonic() - begin)))
    snapshot = observer.snapshot()
    if as_json:
        click.echo(to_json(snapshot))
    else:
        console.print(View(snapshot))


def _live(observer: Observer, console: Console, interval: float) -> None:
    snapshot = observer.snapshot()
    try:
        with Live(View(snapshot), console=console, screen=True, auto_refresh=False) as live:
            for snapshot in frames(observer, interval):
                live.update(View(snapshot), refresh=True)
    finally:
        # The alternate screen is gone with its last frame: leave that to be read.
        console.print(View(snapshot))
        sys.stdout.flush()
