"""`ecdctr refresh`: TPM's snapshots become historical embeddings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from prometheus_client import CollectorRegistry

from config import Config, configured
from errors import UserError
from monitoring.exporter import Exporter
from monitoring.processes import Registration
from monitoring.telemetry import RefresherTelemetry
from settings import Loaded
from shutdown import stop_event
from streaming.kafka_clients import one_line, resolve

if TYPE_CHECKING:
    from embeddings.refresh_worker import Worker

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 10.0
"""How long a worker that was told to stop waits for a Kafka that is away."""


@click.command("refresh")
@click.option(
    "--worker",
    "number",
    type=click.IntRange(min=1),
    default=1,
    help="Number of this worker, where several share the buckets of one run directory.",
)
@configured
def command(loaded: Loaded[Config], number: int) -> None:
    """Keep the last periods' vectors of every user and item ready for the models.

    Ctrl-C or SIGTERM ends with status 0. It may be killed at any moment, and several
    workers may share the work: nothing is lost, nothing is counted twice.
    """
    stopping = stop_event()
    refresh(loaded.config, number, stopping)


def refresh(config: Config, number: int, stopping: threading.Event) -> None:
    """Run a worker until ``stopping`` is set.

    Raises:
        UserError: whatever the person at the terminal can put right.
    """
    # Faust takes a second to import: only now, when a signal finds us prepared.
    from embeddings.refresh_faust import app_id, make_app, max_message_bytes
    from embeddings.refresh_topics import prepare_topics
    from embeddings.refresh_worker import Worker

    _set_up_logging()
    kafka = resolve(config.kafka, config.run_dir)
    partitions = prepare_topics(kafka, config.topics, app_id(config.topics))
    name = "refresher" if number == 1 else f"refresher-{number}"
    registry = CollectorRegistry()
    app = make_app(kafka, config.topics, _data_dir(config.run_dir, name))
    worker = Worker(
        app,
        kafka,
        config.topics,
        config.history,
        partitions,
        RefresherTelemetry(registry, number),
        max_message_bytes(kafka),
    )
    with contextlib.ExitStack() as stack:
        idle = _Idle(worker, config.history.refresh_seconds)
        exporter = stack.enter_context(Exporter(registry, config.monitoring, idle.seconds))
        stack.enter_context(Registration(config.run_dir, name, exporter.url))
        click.echo(
            f"refresh: {config.topics.snapshots} to {config.topics.historical}, "
            f"{partitions} partitions, worker {number}"
        )
        loop = asyncio.new_event_loop()
        in_order = loop.run_until_complete(_run(worker, stopping))
    if not in_order:
        # Faust waits for a Kafka that is away. What it did not hear of will be done again.
        if worker.failure is not None:
            click.echo(f"ecdctr: {one_line(worker.failure)}", err=True)
        _leave(2 if worker.failure else 0)
    _raise_failure(worker)


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("embeddings.refresh_worker").setLevel(logging.INFO)
    # What ends the worker is said once, by us; a broker that is away is an error to
    # aiokafka ten times a second.
    for name in ("aiokafka", "embeddings.refresh_faust", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _data_dir(run_dir: Path, name: str) -> Path:
    folder = run_dir / "refresher" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made: {error.strerror}; take another --run-dir"
        ) from error
    return folder.absolute()


class _Idle:
    """How long ago a worker that has partitions last did what the timer asks for."""

    def __init__(self, worker: Worker, every_seconds: float) -> None:
        self._worker, self._every = worker, every_seconds

    def seconds(self) -> float:
        if not self._worker.shards:
            return 0.0  # the other workers have them all
        return max(0.0, time.monotonic() - self._worker.alive_at - self._every)


async def _run(worker: Worker, stopping: threading.Event) -> bool:
    """Work until told to stop or until something fails; whether all was ended in order."""
    app = worker.app
    starting = asyncio.ensure_future(app.start())
    while not stopping.is_set() and worker.failure is None and not app.crashed:
        if starting.done() and (error := starting.exception()) is not None:
            worker.failure = error
        await asyncio.sleep(_LOOK_SECONDS)
    worker.failure = worker.failure or app.crash_reason
    _, unfinished = await asyncio.wait([asyncio.ensure_future(app.stop())], timeout=_STOP_SECONDS)
    starting.cancel()
    return not unfinished


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _raise_failure(worker: Worker) -> None:
    if isinstance(worker.failure, UserError):
        raise worker.failure
    if worker.failure is not None:
        raise UserError(
            f"the refresher gave up ({one_line(worker.failure)}); started again it goes on where "
            "it was"
        ) from worker.failure
