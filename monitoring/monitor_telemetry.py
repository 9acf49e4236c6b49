"""What `ecdctr monitor` tells Prometheus, each metric declared once.

What it knows of the levels is told from one :class:`Told` at a time, so that a scrape never
sees half of a change, counters go on after a restart, and a version that is no longer among
the last generations has no series. A value that is not defined has no sample.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from monitoring.freshness import BUCKETS, Delays
from monitoring.monitor_settings import label
from monitoring.monitor_told import Told
from monitoring.telemetry import CHECKPOINT_BUCKETS, PREFIX, _Telemetry, build_info

WINDOW_METRICS = {
    "gauc": ("gauc_ratio", "GAUC weighted by impressions"),
    "gauc_unweighted": ("gauc_unweighted_ratio", "Plain mean of the users' AUC"),
    "auc": ("auc_ratio", "AUC over all impressions"),
    "log_loss": ("log_loss_nats", "Log loss"),
    "normalized_entropy": ("normalized_entropy_ratio", "Normalized entropy"),
    "copc": ("copc_ratio", "Clicks over predicted clicks"),
    "ctr": ("ctr_ratio", "Clicks over impressions"),
    "impressions": ("window_impressions", "Predictions held"),
}
GENERATION_METRICS = {
    "gauc": ("generation_gauc_ratio", "GAUC weighted by impressions"),
    "copc": ("generation_copc_ratio", "Clicks over predicted clicks"),
    "normalized_entropy": ("generation_normalized_entropy_ratio", "Normalized entropy"),
    "log_loss": ("generation_log_loss_nats", "Log loss"),
    "impressions": ("generation_impressions", "Predictions held"),
}


class MonitorTelemetry(_Telemetry, Collector):
    """Tells what :meth:`tell` was last given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        build_info(registry, "monitor")
        self._told = Told()
        self._write = self._histogram(
            "monitor_checkpoint_seconds",
            "Writing the monitor's checkpoint, begin to rename.",
            CHECKPOINT_BUCKETS,
        )
        self._failures = self._counter(
            "monitor_checkpoint_failures_total", "Checkpoints of the monitor not written."
        )
        self._written_at = math.nan
        registry.register(self)

    @property
    def told(self) -> Told:
        return self._told

    def tell(self, told: Told) -> None:
        self._told = told

    def checkpoint_written(self, seconds: float) -> None:
        self._write.observe(seconds)
        self._written_at = time.time()

    def checkpoint_failed(self) -> None:
        self._failures.inc()

    # -- what a scrape asks for -----------------------------------------------------------

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        written = GaugeMetricFamily(
            f"{PREFIX}monitor_checkpoint_timestamp_seconds",
            "When the monitor's last checkpoint was written, wall clock.",
        )
        _add(written, self._written_at)
        yield written
        yield from _families(self._told)


def _families(told: Told) -> Iterator[Metric]:
    yield from _of_windows(told)
    yield from _of_generations(told)
    yield from _of_levels(told)
    yield from _of_past_periods(told)
    yield from _of_topics(told)


def _of_windows(told: Told) -> Iterator[Metric]:
    points = [
        (level.level, label(window), point)
        for level in told.levels
        for window, point in level.quality.complete.items()
    ]
    for name, (metric, doc) in WINDOW_METRICS.items():
        family = _gauge(f"monitor_{metric}", f"{doc}, over the newest complete window.", "window")
        for level, window, point in points:
            _add(family, getattr(point.metrics, name), level, window)
        yield family
    groups = _gauge(
        "monitor_gauc_groups", "Users with a click and a non-click, and others.", "window", "state"
    )
    ends = _gauge("monitor_window_end_seconds", "Event time at the window's end.", "window")
    defined = _gauge("monitor_gauc_defined", "1: the window has a user to rank for.", "window")
    for level, window, point in points:
        _add(groups, point.metrics.groups_used, level, window, "used")
        _add(groups, point.metrics.groups_skipped, level, window, "skipped")
        _add(ends, point.end / 1_000, level, window)
        _add(defined, 0.0 if math.isnan(point.metrics.gauc) else 1.0, level, window)
    yield from (groups, ends, defined)


def _of_generations(told: Told) -> Iterator[Metric]:
    for name, (metric, doc) in GENERATION_METRICS.items():
        family = _gauge(
            f"monitor_{metric}", f"{doc}, of one published version's predictions.", "version"
        )
        for level in told.levels:
            for generation in level.quality.generations:
                _add(family, getattr(generation.metrics, name), level.level, generation.version)
        yield family


def _of_levels(told: Told) -> Iterator[Metric]:
    deciles = _gauge(
        "monitor_decile_copc_ratio",
        "Clicks over predicted clicks by tenths of rising prediction, over the longest window.",
        "decile",
    )
    newest = _gauge("monitor_event_time_seconds", "Greatest event time predicted.")
    sample = _gauge("monitor_user_sample_ratio", "Share of users whose predictions are held.")
    version = _gauge("monitor_published_version", "The last version published.")
    published = _gauge("monitor_published_timestamp_seconds", "When it was published, wall clock.")
    counters = {
        "predictions": _counter("monitor_predictions", "Predictions read, each once."),
        "repeated": _counter("monitor_repeated_predictions", "Predictions read again, left out."),
        "late": _counter(
            "monitor_late_predictions",
            "Predictions whose shortest window had ended in their partition of impressions.",
        ),
    }
    learnt = _histogram("monitor_learnt_seconds", "Append to Kafka to learnt.")
    until = _histogram("monitor_published_seconds", "Append to Kafka to the version published.")
    for level in told.levels:
        for decile, found in enumerate(level.quality.deciles, 1):
            _add(deciles, found.copc, level.level, decile)
        _add(newest, level.quality.newest / 1_000 or math.nan, level.level)
        _add(sample, level.quality.sample, level.level)
        if level.published_version is not None:
            _add(version, level.published_version, level.level)
            _add(published, level.published_at / 1_000, level.level)
        for name, counter in counters.items():
            counter.add_metric([level.level], getattr(level, name))
        _add_delays(learnt, level.learnt, level.level)
        _add_delays(until, level.published, level.level)
    yield from (deciles, newest, sample, version, published, *counters.values(), learnt, until)


def _of_past_periods(told: Told) -> Iterator[Metric]:
    transfer = _gauge(
        "monitor_backward_transfer_ratio",
        "Mean change of the GAUC on past periods since each was over; below 0: forgotten.",
    )
    lost = _gauge(
        "monitor_forgetting_ratio", "Mean fall of the GAUC on past periods from its best."
    )
    by_age = _gauge(
        "monitor_recalled_gauc_ratio",
        "GAUC of the last published version on a past period, the newest of age 1.",
        "age",
    )
    for level in told.levels:
        if (found := level.recalled) is not None:
            _add(transfer, found.backward_transfer, level.level)
            _add(lost, found.forgetting, level.level)
            for age, gauc in enumerate(found.gauc, 1):
                _add(by_age, gauc, level.level, age)
    yield from (transfer, lost, by_age)


def _of_topics(told: Told) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        f"{PREFIX}monitor_lag_records",
        "Records appended and not yet read; of impressions, not yet predicted.",
        labels=["topic"],
    )
    for topic, records in told.lag.items():
        _add(lag, records, topic)
    unreadable = CounterMetricFamily(
        f"{PREFIX}monitor_unreadable_records",
        "Records that were not what their topic holds.",
        labels=["topic"],
    )
    lost = CounterMetricFamily(
        f"{PREFIX}monitor_lost_records",
        "Records that retention removed before they were read.",
        labels=["topic"],
    )
    for family, counts in ((unreadable, told.unreadable), (lost, told.lost)):
        for topic in told.lag:
            family.add_metric([topic], counts.get(topic, 0))
    yield from (lag, unreadable, lost)


def _gauge(name: str, doc: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, doc, labels=["level", *labels])


def _counter(name: str, doc: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, doc, labels=["level"])


def _histogram(name: str, doc: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(PREFIX + name, doc, labels=["level"])


def _add(family: GaugeMetricFamily, value: float, *labels: object) -> None:
    if not math.isnan(value):
        family.add_metric([str(one) for one in labels], value)


def _add_delays(family: HistogramMetricFamily, delays: Delays, level: str) -> None:
    seen, buckets = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), delays.counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    family.add_metric([level], buckets, delays.total)
