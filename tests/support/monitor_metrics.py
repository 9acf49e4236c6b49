"""The metrics of `ecdctr monitor`, until its own telemetry classes take this file's place."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.telemetry import FRESHNESS_BUCKETS, build_info
from streaming.impressions import ImpressionSchema

_LEVELS = ("tpm", "cpm", "actr")
_LABELS: dict[str, tuple[str, ...]] = {
    "level": _LEVELS,
    "window": ("5m", "1h", "1d"),
    "state": ("used", "skipped"),
    "decile": tuple(str(decile) for decile in range(1, 11)),
    "version": tuple(str(100 * generation) for generation in range(1, 6)),
    "domain": ("natural", "ad"),
    "signal": ("log_loss", "score", "ctr", "calibration"),
    "detector": ("adwin", "kswin", "page_hinkley"),
    "topic": (
        "impressions.natural",
        "impressions.ad",
        *(f"{topic}.{level}" for topic in ("predictions", "models") for level in _LEVELS),
    ),
}

_GAUGES: tuple[tuple[str, str, float], ...] = (
    ("monitor_gauc_ratio", "level window", 0.7),
    ("monitor_gauc_unweighted_ratio", "level window", 0.68),
    ("monitor_auc_ratio", "level window", 0.72),
    ("monitor_log_loss_nats", "level window", 0.4),
    ("monitor_normalized_entropy_ratio", "level window", 0.9),
    ("monitor_copc_ratio", "level window", 1.02),
    ("monitor_ctr_ratio", "level window", 0.1),
    ("monitor_window_impressions", "level window", 50_000),
    ("monitor_gauc_groups", "level window state", 500),
    ("monitor_gauc_defined", "level window", 1),
    ("monitor_decile_copc_ratio", "level decile", 0.97),
    ("monitor_generation_gauc_ratio", "level version", 0.7),
    ("monitor_generation_copc_ratio", "level version", 1.1),
    ("monitor_generation_normalized_entropy_ratio", "level version", 0.9),
    ("monitor_generation_log_loss_nats", "level version", 0.4),
    ("monitor_generation_impressions", "level version", 4_000),
    ("monitor_window_end_seconds", "level window", 0),
    ("monitor_event_time_seconds", "level", 0),
    ("monitor_user_sample_ratio", "level", 1),
    ("monitor_lag_records", "topic", 3),
    ("monitor_checkpoint_timestamp_seconds", "", 0),
    ("monitor_published_version", "level", 500),
    ("monitor_published_timestamp_seconds", "level", 0),
    ("drift_statistic", "domain signal detector", 0.2),
    ("drift_alarm_event_time_seconds", "domain signal detector", 0),
    ("drift_psi_ratio", "domain feature", 0.05),
    ("drift_js_ratio", "domain feature", 0.02),
    ("drift_unseen_ids_ratio", "domain feature", 0.01),
    ("drift_domain_js_ratio", "feature", 0.1),
)
"""Name, labels, a plausible value; 0: now."""
_COUNTERS: tuple[tuple[str, str], ...] = (
    ("monitor_predictions_total", "level"),
    ("monitor_repeated_predictions_total", "level"),
    ("monitor_late_predictions_total", "level"),
    ("monitor_unreadable_records_total", "topic"),
    ("monitor_checkpoint_failures_total", ""),
    ("drift_alarms_total", "domain signal detector"),
)
_HISTOGRAMS: tuple[tuple[str, str], ...] = (
    ("monitor_learnt_seconds", "level"),
    ("monitor_published_seconds", "level"),
    ("monitor_checkpoint_seconds", ""),
)


class MonitorStandIn:
    def __init__(self, registry: CollectorRegistry, schema: ImpressionSchema) -> None:
        build_info(registry, "monitor")
        features = (*(feature.name for feature in schema.features), "score")
        self._labels = {**_LABELS, "feature": features}
        self._gauges = [(self._made(Gauge, registry, *g[:2]), g[2]) for g in _GAUGES]
        self._counters = [self._made(Counter, registry, *counter) for counter in _COUNTERS]
        self._histograms = [
            self._made(Histogram, registry, *histogram, buckets=FRESHNESS_BUCKETS)
            for histogram in _HISTOGRAMS
        ]
        for counter in self._counters:
            for child in self._children(counter):
                child.inc(0)

    def _made(
        self, kind: Any, registry: CollectorRegistry, name: str, labels: str, **more: Any
    ) -> Any:
        return kind(f"ecdctr_{name}", "Of the monitor.", labels.split(), registry=registry, **more)

    def _children(self, metric: Any) -> Iterator[Any]:
        names = metric._labelnames
        for values in itertools.product(*(self._labels[name] for name in names)):
            yield metric.labels(*values) if names else metric

    def tell(self) -> None:
        for gauge, value in self._gauges:
            for child in self._children(gauge):
                child.set(value or time.time())
        for counter in self._counters:
            for child in self._children(counter):
                child.inc()
        for histogram in self._histograms:
            for child in self._children(histogram):
                child.observe(2.0)
