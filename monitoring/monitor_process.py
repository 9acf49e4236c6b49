"""The monitor's process: read, tell, save, until told to stop."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from config import Config
from errors import UserError
from monitoring.exporter import Exporter, Progress
from monitoring.ledger import Ledger, Observer
from monitoring.monitor_checkpoint import DamagedState, read_state, set_aside, write_state
from monitoring.monitor_page import page
from monitoring.monitor_settings import MonitorConfig
from monitoring.monitor_telemetry import MonitorTelemetry
from monitoring.monitor_told import Told
from monitoring.monitor_topics import MonitorTopics
from monitoring.processes import MONITOR, Registration
from monitoring.sparing import Sparing
from streaming.connection import KafkaConfig
from streaming.kafka_clients import one_line, resolve
from streaming.topic_admin import LEVELS, create_topics

log = logging.getLogger(__name__)

_LEVELS = tuple(reversed(LEVELS))  # the one that serves first
_IDLE_SECONDS = 0.1
_ASK_SECONDS = 1.0
_TELL_SECONDS = 1.0
_TELL_LATEST_SECONDS = 10.0


def state_dir(run_dir: Path) -> Path:
    """Where the monitor of a run directory keeps its checkpoint."""
    return run_dir / MONITOR


def monitor(
    config: Config,
    stopping: threading.Event,
    observers: Callable[[CollectorRegistry], Sequence[Observer]] = lambda registry: (),
) -> None:
    """Watch until ``stopping`` is set; ``observers`` makes whoever else sees what is read.

    Raises:
        UserError: whatever the person at the terminal can put right.
    """
    kafka = resolve(config.kafka, config.run_dir)
    create_topics(kafka, config.topics)
    registry = CollectorRegistry()
    telemetry, liveness = MonitorTelemetry(registry), Progress()
    with contextlib.ExitStack() as stack:
        exporter = stack.enter_context(
            Exporter(
                registry, config.monitoring, liveness.idle_seconds, lambda: page(telemetry.told)
            )
        )
        # Before the checkpoint is read: nobody else may write it.
        stack.enter_context(Registration(config.run_dir, MONITOR, exporter.url))
        ledger, going_on = resumed(
            lambda: Ledger(config.monitor, _LEVELS, config.impressions, observers(registry)),
            state_dir(config.run_dir),
        )
        where = "going on from its checkpoint" if going_on else "from the beginning of the logs"
        click.echo(f"monitor: {where}; page at {exporter.url.removesuffix('metrics')}")
        try:
            _Monitor(config, kafka, ledger, telemetry, liveness, stopping, stack).run()
        except UserError:
            if not stopping.is_set():  # or it only waited for a Kafka that is away
                raise


def resumed(anew: Callable[[], Ledger], directory: Path) -> tuple[Ledger, bool]:
    """A ledger that goes on from the checkpoint in ``directory``; False: from the beginning.

    A checkpoint that is damaged is named, set aside and not used.

    Raises:
        UserError: it was written with other windows.
    """
    ledger = anew()
    try:
        found = read_state(directory)
        if found is None:
            return ledger, False
        _require_same_windows(found[0], ledger.config, directory)
        ledger.restore(*found)
    except (DamagedState, KeyError, ValueError, TypeError) as error:
        log.warning(
            "the monitor's checkpoint is damaged (%s); it was set aside as %s, and the logs are "
            "read from their beginning",
            one_line(error),
            set_aside(directory),
        )
        return anew(), False
    return ledger, True


def _require_same_windows(facts: Mapping[str, Any], config: MonitorConfig, path: Path) -> None:
    then, now = facts["config"]["windows_seconds"], list(config.windows_seconds)
    if then != now:
        raise UserError(
            f"{path} was kept with monitor.windows_seconds = {then}, and now they are {now}; "
            "restore them, or remove the directory to start anew"
        )


class _Monitor:
    """The loop and what it needs."""

    def __init__(
        self,
        config: Config,
        kafka: KafkaConfig,
        ledger: Ledger,
        telemetry: MonitorTelemetry,
        liveness: Progress,
        stopping: threading.Event,
        stack: contextlib.ExitStack,
    ) -> None:
        self._config, self._ledger, self._telemetry = config, ledger, telemetry
        self._liveness, self._stopping = liveness, stopping
        self._directory = state_dir(config.run_dir)
        self._topics = MonitorTopics(kafka, config.topics, ledger, stopping.is_set, stack)
        self._ask = Sparing(_ASK_SECONDS)
        self._tell = Sparing(_TELL_SECONDS, _TELL_LATEST_SECONDS)
        self._save = Sparing(config.monitor.checkpoint_every_seconds)
        self._unsaved = self._failing = False
        self._problem = f"Kafka at {kafka.bootstrap_servers} is away"

    def run(self) -> None:
        with self._save.turn():
            pass  # the first one is due after a while
        while not self._stopping.is_set():
            self._turn()
        # Not after an error: the state may be half of what a turn would have made of it.
        self.save()

    def _turn(self) -> None:
        self._liveness.mark()
        read = 0
        if self._ask.due:
            with self._ask.turn():
                read += self._topics.ask()
        if not self._topics.away:
            read += self._topics.poll()
        self._unsaved |= read > 0
        if self._tell.due:
            with self._tell.turn():
                self.tell()
        if self._save.due:
            with self._save.turn():
                self.save()
        if not read:
            self._stopping.wait(_IDLE_SECONDS)

    def tell(self) -> None:
        """Measure, and let scrapes and the page see it."""
        for observer in self._ledger.observers.values():
            observer.tell()
        self._telemetry.tell(
            Told(
                at=time.time(),
                levels=tuple(self._ledger.told()),
                lag=self._topics.lag(),
                unreadable=dict(self._ledger.unreadable),
                lost=dict(self._ledger.lost),
                alarms=self._ledger.alarms(),
                problem=self._problem if self._topics.away else "",
            )
        )

    def save(self) -> None:
        """Write a checkpoint, if there is news; a failure is told and tried again."""
        if not self._unsaved:
            return
        begin = time.monotonic()
        try:
            write_state(self._directory, *self._ledger.state())
        except OSError as error:
            self._telemetry.checkpoint_failed()
            if not self._failing:
                log.error("the monitor's checkpoint cannot be written: %s", one_line(error))
            self._failing = True
            return
        self._telemetry.checkpoint_written(time.monotonic() - begin)
        self._unsaved = self._failing = False
