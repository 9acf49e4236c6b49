"""`ecdctr kafka`: keep the embedded Kafka of a run directory running."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from types import FrameType

import click

from config import Config, configured
from errors import UserError
from monitoring.processes import Registration
from settings import Loaded
from shutdown import stop_event
from streaming.embedded_kafka import EmbeddedKafka
from streaming.kafka_process import Listener

QUICK_SECONDS = 30.0
"""A broker that lived shorter than this died of its start."""
QUICK_DEATHS = 4
"""So many in a row, and starting it again is no way out."""


@click.command("kafka")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Let other machines in, too: on this port of all interfaces, under this name. "
    "Anyone who reaches the port may read and write: for a network of one's own.",
)
@configured
def command(loaded: Loaded[Config], listen: str | None) -> None:
    """Keep a real one-node Apache Kafka running, its data kept in RUN_DIR/kafka.

    Ends with status 0 on Ctrl-C or SIGTERM. A broker that dies is started again
    over the same data and at the same address.
    """
    listener = _listener(listen) if listen else None
    config = loaded.config
    if config.kafka.bootstrap_servers:
        click.echo(
            f"Kafka at {config.kafka.bootstrap_servers} is configured "
            f"({loaded.origin('kafka.bootstrap_servers')}): nothing to start"
        )
        return
    signal.signal(signal.SIGTERM, _interrupt)  # until the broker is up
    try:
        folder = config.run_dir / "kafka"
        with (
            EmbeddedKafka(folder, listener=listener, report=click.echo) as broker,
            contextlib.ExitStack() as stack,
        ):
            stopping = stop_event()
            stack.enter_context(Registration(config.run_dir, "kafka"))
            click.echo(f"Kafka is ready at {broker.bootstrap_servers}, data in {broker.data_dir}")
            keep_running(broker, stopping)
    except KeyboardInterrupt:
        pass


def _listener(text: str) -> Listener:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdigit()):
        raise UserError(f"--listen {text}: expected HOST:PORT, such as kafka:9092")
    if not 0 < int(port) < 65_536:
        raise UserError(f"--listen {text}: a port is between 1 and 65535")
    return Listener(host, int(port))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def keep_running(broker: EmbeddedKafka, stopping: threading.Event) -> None:
    """Watch the broker, and start it again when it died, until ``stopping`` is set.

    Raises:
        UserError: it dies again and again soon after its start.
    """
    born, quick_deaths = time.monotonic(), 0
    while not stopping.wait(0.2):
        if broker.running:
            continue
        quick_deaths = quick_deaths + 1 if time.monotonic() - born < QUICK_SECONDS else 0
        if quick_deaths >= QUICK_DEATHS:
            raise UserError(
                f"Kafka died {quick_deaths} times soon after its start; why is in "
                f"{broker.data_dir / 'kafka.log'} and {broker.data_dir / 'output.log'}"
            )
        click.echo("Kafka died; starting it again")
        broker.restart()
        click.echo(f"Kafka is back at {broker.bootstrap_servers}")
        born = time.monotonic()
