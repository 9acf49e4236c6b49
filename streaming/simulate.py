"""`ecdctr simulate`: a synthetic market into Kafka at a rate, or into Parquet at full speed."""

from __future__ import annotations

import contextlib
import fcntl
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
from prometheus_client import CollectorRegistry

from config import Config, configured
from errors import UserError
from monitoring.exporter import Exporter, Progress
from monitoring.processes import Registration
from monitoring.telemetry import SimulatorTelemetry
from settings import Loaded
from shutdown import stop_event
from streaming.kafka_clients import resolve
from streaming.market import DOMAINS, Market, Slot
from streaming.market_config import Preset, adjusted
from streaming.market_files import write_slots
from streaming.market_log import TopicSink, chunks, written
from streaming.market_progress import MarketProgress
from streaming.topic_admin import create_topics
from streaming.truth import truth_dir, write_truth
from streaming.writer import KafkaWriteError, RecordWriter

_CHUNK_ROWS = 16_384
_CHUNKS_A_SECOND = 4
_PATIENCE_SECONDS = 10.0


def _finite(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


@click.command("simulate")
@configured
@click.option(
    "--preset", type=click.Choice(get_args(Preset)), help="Same as --set market.preset=..."
)
@click.option("--days", type=click.IntRange(min=1), help="Length, days of event time.")
@click.option("--seed", type=click.IntRange(min=0), help="Same as --set market.seed=...")
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0.0,
    callback=_finite,
    help="Impressions a second to Kafka, natural and ads together; 0: as fast as it goes.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write Parquet files there, not to Kafka."
)
def command(
    loaded: Loaded[Config],
    preset: str | None,
    days: int | None,
    seed: int | None,
    rate: float,
    out: Path | None,
) -> None:
    """Write a synthetic market's natural and ad impressions.

    To Kafka, or with --out to Parquet files. Started again it goes on where it
    was, also after a crash. The true click probabilities go to `truth/` in the
    run directory, or in DIR.
    """
    flags = {"preset": preset, "days": days, "seed": seed}
    market = Market(adjusted(loaded.config.market, loaded.origins, **flags))
    stopping = stop_event()
    if out is not None:
        to_files(market, out, stopping)
    else:
        to_kafka(market, loaded.config, rate, stopping)


def to_files(market: Market, out: Path, stopping: threading.Event) -> None:
    with _only_one(out / "market.lock"), MarketProgress(market.config) as progress:
        for slot, impressions, ads in write_slots(market, out, stopping.is_set):
            progress.advance(slot, 1.0, impressions - ads, ads)
        progress.finish(f"written to {out}", stopping.is_set())


def to_kafka(market: Market, config: Config, rate: float, stopping: threading.Event) -> None:
    """Send what the topics do not have yet, truth first, until the end or ``stopping``."""
    kafka, run_dir = resolve(config.kafka, config.run_dir), config.run_dir
    names = {"natural": config.topics.natural, "ad": config.topics.ad}
    registry, alive = CollectorRegistry(), Progress()
    telemetry = SimulatorTelemetry(registry)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(run_dir / "simulate.lock"))
        exporter = stack.enter_context(Exporter(registry, config.monitoring, alive.idle_seconds))
        stack.enter_context(Registration(run_dir, "simulate", exporter.url))
        create_topics(kafka, config.topics)
        fingerprint = market.config.fingerprint
        state = {domain: written(kafka, names[domain], fingerprint) for domain in DOMAINS}
        writer = stack.enter_context(RecordWriter(kafka))
        sinks = {d: TopicSink(writer, names[d], fingerprint, state[d]) for d in DOMAINS}
        progress = stack.enter_context(MarketProgress(market.config))
        done = stack.enter_context(_giving_up(writer, stopping))
        run = _Run(market, run_dir, sinks, _Pace(rate, stopping), stopping)
        try:
            for slot, share, sent in run.chunks():
                alive.mark()
                for domain, (rows, event_time) in sent.items():
                    if rows:
                        telemetry.produced(names[domain], rows, event_time)
                progress.advance(slot, share, sent["natural"][0], sent["ad"][0])
            writer.flush()
        except KafkaWriteError as error:
            if not stopping.is_set():
                raise
            click.echo(f"{error}; the next start sends them", err=True)
        done.set()
        progress.finish(f"sent to {', '.join(names.values())}", stopping.is_set())


class _Run:
    """The loop: make a slot, tell the truth, send it chunk by chunk at the pace."""

    def __init__(
        self,
        market: Market,
        run_dir: Path,
        sinks: dict[str, TopicSink],
        pace: _Pace,
        stopping: threading.Event,
    ) -> None:
        self._market = market
        self._truth = truth_dir(run_dir)
        self._sinks = sinks
        self._pace = pace
        self._stopping = stopping

    def chunks(self) -> Iterator[tuple[int, float, dict[str, tuple[int, int]]]]:
        """Yields (slot, share of it done, domain -> (rows sent, their last event time, ms))."""
        first = min(sink.resume_slot for sink in self._sinks.values())
        for slot in self._market.slots(first):
            write_truth(self._truth, slot)
            yield from self._send(slot)
            if self._stopping.is_set():
                return

    def _send(self, slot: Slot) -> Iterator[tuple[int, float, dict[str, tuple[int, int]]]]:
        total, done = len(slot.natural) + len(slot.ad), 0
        for natural, ad in chunks(slot, self._pace.chunk_rows):
            if self._stopping.is_set():
                return
            sent = {}
            for domain, rows in (("natural", natural), ("ad", ad)):
                last = rows.column("event_time")[-1].as_py() if len(rows) else 0
                sent[domain] = (self._sinks[domain].send(rows), last)
            done += len(natural) + len(ad)
            yield slot.index, done / total, sent
            self._pace.wait(sum(rows for rows, _ in sent.values()))


class _Pace:
    """Holds a rate by the wall clock; time lost to a broker's absence is not made up for."""

    def __init__(self, rate: float, stopping: threading.Event) -> None:
        self._rate = rate
        self._stopping = stopping
        self._due = time.monotonic()

    @property
    def chunk_rows(self) -> int:
        if not self._rate:
            return _CHUNK_ROWS
        return max(1, min(_CHUNK_ROWS, int(self._rate / _CHUNKS_A_SECOND)))

    def wait(self, rows: int) -> None:
        """Until ``rows`` more are due."""
        if not self._rate or not rows:
            return
        self._due = max(self._due + rows / self._rate, time.monotonic() - 1.0)
        self._stopping.wait(max(0.0, self._due - time.monotonic()))


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Refuse a second market in the same place; the lock goes with its process, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise UserError(f"cannot write to {path.parent}: {error.strerror or error}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"'simulate' already writes to {path.parent}: stop it first") from None
        yield


@contextlib.contextmanager
def _giving_up(writer: RecordWriter, stopping: threading.Event) -> Iterator[threading.Event]:
    """After a stop, wait for the broker no longer than _PATIENCE_SECONDS or the event's set."""
    done = threading.Event()

    def watch() -> None:
        stopping.wait()
        if not done.wait(_PATIENCE_SECONDS):
            writer.interrupt()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield done
    finally:
        done.set()
