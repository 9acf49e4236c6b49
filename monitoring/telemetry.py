"""The Prometheus metrics of every process, each declared once.

Base units, `_total` for counters, `_seconds` and `_ratio` in names. Labels are
bounded: a level, a rank, a table, a topic, a reason from a fixed set.

A gauge whose value is undefined (NaN: the GAUC of a window without a valid
user, a lag not yet known) has **no sample** rather than NaN, so that
`avg_over_time` leaves it out and `absent` finds it.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from monitoring.freshness import BUCKETS
from monitoring.window import WindowMetrics
from streaming.validation import Reason

PREFIX = "ecdctr_"
STEP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CHECKPOINT_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
REFRESH_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
FRESHNESS_BUCKETS = BUCKETS

disable_created_metrics()  # a second series for every counter, of which nobody makes use

M = TypeVar("M", Counter, Gauge, Histogram)

_declared: weakref.WeakKeyDictionary[CollectorRegistry, dict[str, Any]] = (
    weakref.WeakKeyDictionary()
)


def _declare(
    kind: type[M],
    registry: CollectorRegistry,
    name: str,
    doc: str,
    labels: tuple[str, ...],
    **more: Any,
) -> M:
    """The metric of that name in `registry`: several levels in one process share it."""
    known = _declared.setdefault(registry, {})
    if name not in known:
        known[name] = kind(PREFIX + name, doc, labels, registry=registry, **more)
    metric: M = known[name]
    return metric


class _Telemetry:
    """Declares metrics that carry this process's own labels first."""

    def __init__(self, registry: CollectorRegistry, **own: str) -> None:
        self._registry = registry
        self._names, self._values = tuple(own), tuple(own.values())

    def _counter(self, name: str, doc: str) -> Counter:
        """A counter without further labels, exported from 0 on."""
        return self._own(_declare(Counter, self._registry, name, doc, self._names))

    def _own(self, metric: M) -> M:
        """The one with this process's labels, if it has any."""
        return metric.labels(*self._values) if self._names else metric

    def _counters(self, name: str, doc: str, label: str) -> Counter:
        return _declare(Counter, self._registry, name, doc, (*self._names, label))

    def _counters_of(self, name: str, doc: str, label: str, values: Iterable[str]) -> Counter:
        """A counter whose label takes known values, each exported from 0 on: Prometheus sees an
        increase only between two samples."""
        metric = self._counters(name, doc, label)
        for value in values:
            self._count(metric, 0, value)
        return metric

    def _gauge(self, name: str, doc: str, *label: str) -> Gauge:
        return _declare(Gauge, self._registry, name, doc, (*self._names, *label))

    def _histogram(self, name: str, doc: str, buckets: tuple[float, ...]) -> Histogram:
        return self._own(
            _declare(Histogram, self._registry, name, doc, self._names, buckets=buckets)
        )

    def _set(self, gauge: Gauge, value: float, *label: str) -> None:
        if math.isnan(value):
            gauge.remove(*self._values, *label)
        else:
            gauge.labels(*self._values, *label).set(value)

    def _count(self, counter: Counter, amount: float, label: str) -> None:
        counter.labels(*self._values, label).inc(amount)


class TrainerTelemetry(_Telemetry):
    """What one rank of one level tells. Every method is cheap enough for every batch."""

    def __init__(self, registry: CollectorRegistry, level: str, rank: int = 0) -> None:
        super().__init__(registry, level=level, rank=str(rank))
        build_info(registry, f"train-{level}")
        self._declare_progress()
        self._declare_quality()
        self._declare_checkpoints()
        self._declare_tables()

    def _declare_progress(self) -> None:
        self._impressions = self._counter("impressions_learnt_total", "Impressions learnt from.")
        self._batches = self._counter("batches_total", "Batches learnt from.")
        self._step = self._histogram("step_seconds", "One batch: predict and learn.", STEP_BUCKETS)
        self._freshness = self._histogram(
            "freshness_seconds",
            "From an impression's append to Kafka to the publication of what was learnt.",
            FRESHNESS_BUCKETS,
        )
        self._lag_records = self._gauge("lag_records", "Records appended and not yet read.")
        self._lag_time = self._gauge(
            "lag_event_time_seconds", "Event time between the log's end and what was read."
        )
        self._watermark = self._gauge(
            "event_time_seconds", "Greatest event time learnt, since 1970-01-01 UTC."
        )
        self._dead_letters = self._counters_of(
            "dead_letters_total",
            "Records or rows sent to the dead-letter topic.",
            "reason",
            [reason.value for reason in Reason],
        )
        self._late = self._counter(
            "late_impressions_total", "Impressions learnt after later ones of other partitions."
        )
        self._duplicates = self._counter(
            "duplicate_impressions_total", "Impressions whose id was seen shortly before."
        )
        self._lost = self._counter(
            "lost_records_total", "Records that retention removed before they were read."
        )
        self._unknown = self._counters(
            "unknown_total", "Things in the input that the schema does not know.", "reason"
        )

    def _declare_quality(self) -> None:
        self._loss = self._gauge("loss_nats", "Log loss of the last batch, before learning it.")
        self._window = {
            field: self._gauge(name, doc + ", over the window.")
            for field, name, doc in (
                ("gauc", "gauc_ratio", "GAUC weighted by impressions"),
                ("gauc_unweighted", "gauc_unweighted_ratio", "Plain mean of the users' AUC"),
                ("gauc_ceiling", "gauc_ceiling_ratio", "GAUC of the true click probabilities"),
                ("auc", "auc_ratio", "AUC over all impressions"),
                ("log_loss", "log_loss_nats", "Log loss"),
                ("normalized_entropy", "normalized_entropy_ratio", "Normalized entropy"),
                ("copc", "copc_ratio", "Clicks over predicted clicks"),
                ("ctr", "ctr_ratio", "Clicks over impressions"),
                ("groups_used", "gauc_groups_used", "Users with a click and a non-click"),
                ("groups_skipped", "gauc_groups_skipped", "Users without a click or a non-click"),
                ("impressions", "window_impressions", "Impressions held"),
            )
        }

    def _declare_checkpoints(self) -> None:
        self._write = self._histogram(
            "checkpoint_seconds", "Writing a checkpoint, begin to rename.", CHECKPOINT_BUCKETS
        )
        self._stall = self._counter(
            "checkpoint_stall_seconds_total", "Time the loop was blocked by checkpoints."
        )
        self._failures = self._counter("checkpoint_failures_total", "Checkpoints not written.")
        self._written_at = self._gauge(
            "checkpoint_timestamp_seconds", "When the last checkpoint was written, wall clock."
        )
        self._version = self._gauge("model_version", "Version of the last checkpoint.")

    def _declare_tables(self) -> None:
        self._occupancy = self._gauge("table_occupancy_ratio", "Rows in use over rows.", "table")
        self._admitted = self._counters("ids_admitted_total", "Ids given a row.", "table")
        self._evicted = self._counters("evictions_total", "Ids that lost their row.", "table")

    def learnt(self, impressions: int, seconds: float, loss: float) -> None:
        """One batch was predicted and learnt in `seconds`; `loss` in nats."""
        self._impressions.inc(impressions)
        self._batches.inc()
        self._step.observe(seconds)
        self._set(self._loss, loss)

    def quality(self, window: WindowMetrics) -> None:
        for field, gauge in self._window.items():
            self._set(gauge, getattr(window, field))

    def lag(self, records: float, event_time_seconds: float) -> None:
        """How far reading is behind the log's end; NaN: not known."""
        self._set(self._lag_records, records)
        self._set(self._lag_time, event_time_seconds)

    def watermark(self, event_time_ms: int) -> None:
        self._set(self._watermark, event_time_ms / 1000)

    def freshness(self, seconds: Iterable[float]) -> None:
        """Append to publication, one value a published record."""
        for value in seconds:
            self._freshness.observe(value)

    def dead_letters(self, reason: str, count: int = 1) -> None:
        self._count(self._dead_letters, count, reason)

    def late(self, count: int) -> None:
        self._late.inc(count)

    def duplicates(self, count: int) -> None:
        self._duplicates.inc(count)

    def lost(self, count: int) -> None:
        self._lost.inc(count)

    def unknown(self, reason: str, count: int) -> None:
        self._count(self._unknown, count, reason)

    def checkpoint_written(self, version: int, seconds: float) -> None:
        """A checkpoint took `seconds` to write and is current now."""
        self._write.observe(seconds)
        self._set(self._version, version)
        self._set(self._written_at, time.time())

    def checkpoint_stalled(self, seconds: float) -> None:
        self._stall.inc(seconds)

    def checkpoint_failed(self) -> None:
        self._failures.inc()

    def table(self, name: str, occupancy: float, admitted: int = 0, evicted: int = 0) -> None:
        """Share of rows in use now; ids admitted and evicted **since the last call**."""
        self._set(self._occupancy, occupancy, name)
        self._count(self._admitted, admitted, name)
        self._count(self._evicted, evicted, name)


class SimulatorTelemetry(_Telemetry):
    """What a market tells."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        build_info(registry, "simulate")
        self._produced = self._counters(
            "impressions_produced_total", "Impressions written to a topic.", "topic"
        )
        self._event_time = self._gauge(
            "produced_event_time_seconds", "Greatest event time written.", "topic"
        )

    def produced(self, topic: str, impressions: int, event_time_ms: int) -> None:
        self._count(self._produced, impressions, topic)
        self._set(self._event_time, event_time_ms / 1000, topic)


class RefresherTelemetry(_Telemetry):
    """What one worker of the refresher tells of its partitions; times are event times."""

    def __init__(self, registry: CollectorRegistry, worker: int = 1) -> None:
        super().__init__(registry, worker=str(worker))
        build_info(registry, "refresh")
        self._snapshots = self._counters_of(
            "history_snapshots_total",
            "Snapshots read, by what became of them.",
            "outcome",
            ("merged", "repeated", "old", "unusable"),
        )
        self._published = self._counter("history_records_total", "Buckets published.")
        self._tombstones = self._counter("history_tombstones_total", "Buckets taken back.")
        self._rebuilds = self._counter(
            "history_rebuilds_total", "Partitions rebuilt because their table could not be used."
        )
        self._refresh = self._histogram(
            "history_refresh_seconds", "Refreshing one partition.", REFRESH_BUCKETS
        )
        self._entities = self._gauge("history_entities", "Entities with a history.", "kind")
        self._coverage = self._gauge(
            "history_coverage_ratio",
            "Of the entities seen in the newest period, those with an earlier one.",
            "kind",
        )
        self._distance = self._gauge(
            "history_cosine_distance",
            "Mean cosine distance of an entity's newest vector from the one before.",
            "kind",
        )
        self._bytes = self._gauge("history_table_bytes", "Bytes of the table's rows.")
        self._period_end = self._gauge(
            "history_event_time_seconds", "Newest period end seen, since 1970-01-01 UTC."
        )
        self._staleness = self._gauge(
            "history_staleness_seconds",
            "Event time by which the bucket least up to date is behind the newest period end.",
        )

    def snapshot(self, outcome: str) -> None:
        """A snapshot was `merged`, `repeated`, `old` or `unusable`."""
        self._count(self._snapshots, 1, outcome)

    def published(self, records: int, tombstones: int) -> None:
        self._published.inc(records)
        self._tombstones.inc(tombstones)

    def rebuilt(self) -> None:
        self._rebuilds.inc()

    def refreshed(self, seconds: float) -> None:
        self._refresh.observe(seconds)

    def entities(self, kind: str, entities: int, coverage: float, distance: float) -> None:
        """`coverage` and `distance` are NaN where there is nobody to tell by."""
        self._set(self._entities, entities, kind)
        self._set(self._coverage, coverage, kind)
        self._set(self._distance, distance, kind)

    def table(self, bytes_held: int) -> None:
        self._set(self._bytes, bytes_held)

    def periods(self, newest_ms: int, staleness_ms: int) -> None:
        self._set(self._period_end, newest_ms / 1000 if newest_ms else math.nan)
        self._set(self._staleness, staleness_ms / 1000)


def build_info(registry: CollectorRegistry, process: str) -> None:
    """`ecdctr_build_info`, always 1, what runs here in its labels; and the process's
    own memory, processor time and open files (`process_...`)."""
    if registry not in _declared:
        ProcessCollector(registry=registry)
    gauge = _declare(Gauge, registry, "build_info", "What runs here.", ("process", "version"))
    gauge.labels(process, _version()).set(1)


def _version() -> str:
    try:
        return version("ecdctr")
    except PackageNotFoundError:
        return "unknown"
