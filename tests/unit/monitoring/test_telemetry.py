import math

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.telemetry import RefresherTelemetry, SimulatorTelemetry, TrainerTelemetry
from monitoring.window import Window


@pytest.fixture
def registry():
    return CollectorRegistry()


ACTR = {"level": "actr", "rank": "0"}


def test_counts_what_is_learnt(registry):
    telemetry = TrainerTelemetry(registry, "actr")
    telemetry.learnt(1024, seconds=0.03, loss=0.4)
    telemetry.learnt(512, seconds=0.07, loss=0.3)
    value = registry.get_sample_value
    assert value("ecdctr_impressions_learnt_total", ACTR) == 1536
    assert value("ecdctr_batches_total", ACTR) == 2
    assert value("ecdctr_loss_nats", ACTR) == 0.3
    assert value("ecdctr_step_seconds_sum", ACTR) == pytest.approx(0.1)
    assert value("ecdctr_step_seconds_bucket", {**ACTR, "le": "0.05"}) == 1


def test_an_undefined_gauge_has_no_sample_before_and_after(registry):
    telemetry = TrainerTelemetry(registry, "actr")
    value = registry.get_sample_value
    assert value("ecdctr_gauc_ratio", ACTR) is None
    assert value("ecdctr_lag_records", ACTR) is None
    window = Window(100)
    telemetry.quality(window.metrics())
    assert value("ecdctr_gauc_ratio", ACTR) is None
    assert value("ecdctr_window_impressions", ACTR) == 0
    window.update([1, 1], [0, 1], [0.1, 0.2], [0, 0])
    telemetry.quality(window.metrics())
    assert value("ecdctr_gauc_ratio", ACTR) == 1
    window.update([2] * 100, [0] * 100, np.full(100, 0.1), np.arange(100))
    telemetry.quality(window.metrics())
    assert value("ecdctr_gauc_ratio", ACTR) is None
    telemetry.lag(7, math.nan)
    assert value("ecdctr_lag_records", ACTR) == 7
    assert value("ecdctr_lag_event_time_seconds", ACTR) is None


def test_counters_start_at_zero_so_that_the_first_increase_is_seen(registry):
    TrainerTelemetry(registry, "actr")
    value = registry.get_sample_value
    assert value("ecdctr_checkpoint_failures_total", ACTR) == 0
    assert value("ecdctr_late_impressions_total", ACTR) == 0
    assert value("ecdctr_dead_letters_total", {**ACTR, "reason": "bad-click"}) == 0
    RefresherTelemetry(registry)
    unusable = {"worker": "1", "outcome": "unusable"}
    assert value("ecdctr_history_snapshots_total", unusable) == 0


def test_tables_reasons_and_checkpoints(registry):
    telemetry = TrainerTelemetry(registry, "actr", rank=1)
    telemetry.table("user_id", 0.5, admitted=10)
    telemetry.table("user_id", 1.0, admitted=5, evicted=3)
    telemetry.dead_letters("bad_click", 4)
    telemetry.unknown("column", 2)
    telemetry.checkpoint_written(12, seconds=0.2)
    telemetry.checkpoint_stalled(0.05)
    telemetry.checkpoint_failed()
    telemetry.freshness([0.5, 2.0])
    telemetry.watermark(1_700_000_000_500)
    own = {"level": "actr", "rank": "1"}
    value = registry.get_sample_value
    assert value("ecdctr_table_occupancy_ratio", {**own, "table": "user_id"}) == 1.0
    assert value("ecdctr_ids_admitted_total", {**own, "table": "user_id"}) == 15
    assert value("ecdctr_evictions_total", {**own, "table": "user_id"}) == 3
    assert value("ecdctr_dead_letters_total", {**own, "reason": "bad_click"}) == 4
    assert value("ecdctr_unknown_total", {**own, "reason": "column"}) == 2
    assert value("ecdctr_model_version", own) == 12
    assert value("ecdctr_checkpoint_seconds_count", own) == 1
    assert value("ecdctr_checkpoint_stall_seconds_total", own) == 0.05
    assert value("ecdctr_checkpoint_failures_total", own) == 1
    assert value("ecdctr_checkpoint_timestamp_seconds", own) > 1.7e9
    assert value("ecdctr_freshness_seconds_count", own) == 2
    assert value("ecdctr_event_time_seconds", own) == 1_700_000_000.5


def test_several_levels_share_one_registry(registry):
    for level in ("tpm", "cpm", "actr"):
        TrainerTelemetry(registry, level).learnt(1, 0.01, 0.1)
    for level in ("tpm", "cpm", "actr"):
        labels = {"level": level, "rank": "0"}
        assert registry.get_sample_value("ecdctr_impressions_learnt_total", labels) == 1


def test_names_tell_units_and_kinds(registry):
    TrainerTelemetry(registry, "actr")
    SimulatorTelemetry(registry).produced("impressions.ad", 10, 1_700_000_000_000)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) > 20
    for family in families:
        assert family.name.startswith(("ecdctr_", "process_"))
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    produced = {"topic": "impressions.ad"}
    assert registry.get_sample_value("ecdctr_impressions_produced_total", produced) == 10
    assert registry.get_sample_value("process_resident_memory_bytes") > 1e7
    info = [family for family in families if family.name == "ecdctr_build_info"]
    assert {s.labels["process"] for s in info[0].samples} == {"train-actr", "simulate"}
