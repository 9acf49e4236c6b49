"""Every process's metrics, filled with plausible values, without the processes."""

from __future__ import annotations

import importlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import get_args

import numpy as np
from monitor_support import made
from prometheus_client import CollectorRegistry
from tests_support import ROOT

from monitoring import monitor_told
from monitoring.drift.asking import Decision, Verdict
from monitoring.drift.features import FeatureDistances
from monitoring.drift.settings import Domain, Signal
from monitoring.drift.sketches import SCORE
from monitoring.drift.watch import Alarm, DriftFigures
from monitoring.drift_telemetry import DriftTelemetry
from monitoring.early_telemetry import EarlyTelemetry
from monitoring.hand_down_telemetry import HandDownTelemetry
from monitoring.history_telemetry import HistoryTelemetry
from monitoring.ledger import Ledger
from monitoring.monitor_settings import MonitorConfig
from monitoring.monitor_telemetry import MonitorTelemetry
from monitoring.period_telemetry import PeriodTelemetry
from monitoring.recall_telemetry import RecallTelemetry
from monitoring.recalled import Recalled
from monitoring.telemetry import (
    RefresherTelemetry,
    SimulatorTelemetry,
    TrainerTelemetry,
    _Telemetry,
)
from monitoring.window import Window
from streaming.control import ASKS, Request
from streaming.impressions import ImpressionSchema
from streaming.predictions import encode_predictions
from streaming.validation import Reason

SCHEMA = ImpressionSchema()
LEVELS = ("tpm", "cpm", "actr")
OUTCOMES = ("taken", "answered", "refused", "postponed")


@dataclass
class Told:
    """A process by its registered name, and how it tells of one more round of work."""

    name: str
    registry: CollectorRegistry
    tell: Callable[[], None]


def every_process() -> list[Told]:
    trainers = [_trainer(level) for level in LEVELS]
    return [*trainers, _refresher(), _simulator(), _monitor()]


def declared_names() -> set[str]:
    """The names of all series of all processes."""
    told = every_process()
    for process in told:
        process.tell()
    families = [family for process in told for family in process.registry.collect()]
    return {sample.name for family in families for sample in family.samples}


def telemetry_classes() -> Iterator[type[_Telemetry]]:
    """Those of every module of `monitoring` whose name says so."""
    for path in sorted((ROOT / "monitoring").rglob("*telemetry*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for found in vars(importlib.import_module(name)).values():
            if isinstance(found, type) and found.__module__ == name and found is not _Telemetry:
                yield found


def _trainer(level: str) -> Told:
    registry = CollectorRegistry()
    trainer = TrainerTelemetry(registry, level)
    others = [_recall(RecallTelemetry(registry, level))]
    if level != "actr":
        others.append(_early(EarlyTelemetry(registry, level, 0, OUTCOMES)))
    if level == "tpm":
        others.append(_period(PeriodTelemetry(registry, level)))
    else:
        others.append(_hand_down(HandDownTelemetry(registry, level)))
        others.append(_history(HistoryTelemetry(registry, level)))

    def tell() -> None:
        _learn(trainer)
        _keep(trainer)
        for other in others:
            other()

    return Told(f"train-{level}", registry, tell)


def _learn(trainer: TrainerTelemetry) -> None:
    rng = np.random.default_rng(0)
    window = Window(1_000)
    window.update(
        user=rng.integers(0, 50, 1_000),
        click=rng.random(1_000) < 0.2,
        probability=rng.random(1_000),
        event_time=np.arange(1_000),
        truth=rng.random(1_000),
    )
    trainer.learnt(1_000, seconds=0.05, loss=0.4)
    trainer.quality(window.metrics())
    trainer.lag(12, 3.5)
    trainer.watermark(int(time.time() * 1000))
    trainer.late(1)
    trainer.duplicates(1)
    trainer.lost(0)
    trainer.unknown("column", 1)
    for reason in Reason:
        trainer.dead_letters(reason.value)


def _keep(trainer: TrainerTelemetry) -> None:
    trainer.checkpoint_written(time.time_ns(), seconds=0.4)
    trainer.checkpoint_stalled(0.01)
    trainer.checkpoint_failed()
    trainer.freshness([1.0, 20.0, 400.0])
    for table in {feature.table_name for feature in SCHEMA.sparse}:
        trainer.table(table, occupancy=0.4, admitted=10, evicted=2)


def _period(period: PeriodTelemetry) -> Callable[[], None]:
    def tell() -> None:
        now = int(time.time() * 1000)
        period.going_on(now)
        period.closed(now, {"user": 1_000, "item": 200}, seconds=0.2)

    return tell


def _early(early: EarlyTelemetry) -> Callable[[], None]:
    def tell() -> None:
        for outcome in OUTCOMES:
            early.request(outcome)

    return tell


def _hand_down(hand_down: HandDownTelemetry) -> Callable[[], None]:
    def tell() -> None:
        now = int(time.time() * 1000)
        hand_down.going_on(now)
        hand_down.made(40_000_000)
        hand_down.preparing(12)
        hand_down.done(now, seconds=0.3)

    return tell


def _recall(recall: RecallTelemetry) -> Callable[[], None]:
    def tell() -> None:
        recall.held_back(100)
        recall.held(4_096)

    return tell


def _history(history: HistoryTelemetry) -> Callable[[], None]:
    def tell() -> None:
        now = int(time.time() * 1000)
        history.known({"user": 0.9, "item": 0.8})
        history.age(now, now - 86_400_000)
        history.waited(0.1)
        history.outrun(1)

    return tell


def _refresher() -> Told:
    registry = CollectorRegistry()
    refresher = RefresherTelemetry(registry)

    def tell() -> None:
        for outcome in ("merged", "repeated", "old", "unusable"):
            refresher.snapshot(outcome)
        refresher.published(16, 1)
        refresher.rebuilt()
        refresher.refreshed(0.02)
        for kind in ("user", "item"):
            refresher.entities(kind, 1_000, coverage=0.8, distance=0.15)
        refresher.table(3_000_000)
        refresher.periods(int(time.time() * 1000), 0)

    return Told("refresher", registry, tell)


def _simulator() -> Told:
    registry = CollectorRegistry()
    market = SimulatorTelemetry(registry)

    def tell() -> None:
        for topic in ("impressions.natural", "impressions.ad"):
            market.produced(topic, 10_000, int(time.time() * 1000))

    return Told("simulate", registry, tell)


def _monitor() -> Told:
    registry = CollectorRegistry()
    monitor, drift, ledger = MonitorTelemetry(registry), DriftTelemetry(registry), _watched()
    topics = [f"{topic}.{level}" for topic in ("predictions", "models") for level in LEVELS]

    def tell() -> None:
        lag = dict.fromkeys([*topics, "impressions.natural", "impressions.ad"], 3.0)
        monitor.tell(monitor_told.Told(time.time(), tuple(ledger.told()), lag))
        monitor.checkpoint_written(0.1)
        monitor.checkpoint_failed()
        drift.observe(_drift_figures())
        drift.going_on(_drift_alarms())
        drift.alarmed(_drift_alarms())
        for ask, verdict in itertools.product(ASKS, Verdict):
            request = Request(ask, int(time.time() * 1000), "natural", "log_loss")
            drift.decided(Decision(request, verdict, ""))

    return Told("monitor", registry, tell)


def _watched() -> Ledger:
    """A week of predictions of every level, with versions published meanwhile."""
    ledger = Ledger(MonitorConfig(), LEVELS, SCHEMA)
    for level in LEVELS:
        for number in range(60):
            one = made(number, spacing_ms=100_000)
            records = encode_predictions(
                one.batch, one.probability_N, number, "log", schema=SCHEMA, level=level
            )
            for partition, value, headers in records:
                at = int(one.batch.rows.column("event_time")[0].as_py())
                record = SimpleNamespace(value=value, headers=headers, key=None, timestamp=at)
                ledger.predictions("predictions", level, partition, [record], number + 1)
            if number % 12 == 0:
                ledger.announcements("models", level, 0, [_announcement(level, number)], number)
    ledger.advance({})
    return ledger


def _announcement(level: str, version: int) -> SimpleNamespace:
    recalled = Recalled(backward_transfer=-0.01, forgetting=0.02, gauc=(0.7, 0.69, 0.66))
    value = json.dumps({"version": version, "recall": recalled.plain()}).encode()
    now = int(time.time() * 1000)
    return SimpleNamespace(value=value, headers=(), key=level.encode(), timestamp=now)


def _watched_for_drift() -> list[tuple[Domain, Signal, str]]:
    detectors = ("adwin", "kswin", "page_hinkley")
    return list(itertools.product(get_args(Domain), get_args(Signal), detectors))


def _drift_figures() -> DriftFigures:
    features = [*(feature.name for feature in SCHEMA.features), SCORE]
    distances = (dict.fromkeys(features, 0.05) for _ in range(3))
    found = FeatureDistances(*distances)
    return DriftFigures(
        signals={},
        statistics=dict.fromkeys(_watched_for_drift(), 0.2),
        features=dict.fromkeys(get_args(Domain), found),
        domain_js=dict.fromkeys(features, 0.1),
    )


def _drift_alarms() -> list[Alarm]:
    now = int(time.time() * 1000)
    return [Alarm(now, *watched, statistic=9.0) for watched in _watched_for_drift()]
