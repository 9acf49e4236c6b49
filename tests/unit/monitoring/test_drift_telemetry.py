import math

from prometheus_client import CollectorRegistry

from monitoring.drift.features import FeatureDistances
from monitoring.drift.watch import Alarm, DriftFigures
from monitoring.drift_telemetry import DriftTelemetry

WATCHED = {"domain": "ad", "signal": "ctr", "detector": "adwin"}
SEGMENT = {"domain": "ad", "feature": "segment"}


def figures(statistic, psi):
    distances = FeatureDistances({"segment": psi}, {"segment": 0.2}, {"user_id": 0.1})
    return DriftFigures({}, {("ad", "ctr", "adwin"): statistic}, {"ad": distances}, {"score": 0.3})


def test_figures_have_samples_where_they_are_known():
    registry = CollectorRegistry()
    value = registry.get_sample_value
    telemetry = DriftTelemetry(registry)
    telemetry.observe(figures(1.5, 0.4))
    assert value("ecdctr_drift_statistic", WATCHED) == 1.5
    assert value("ecdctr_drift_psi_ratio", SEGMENT) == 0.4
    assert value("ecdctr_drift_js_ratio", SEGMENT) == 0.2
    assert value("ecdctr_drift_unseen_ids_ratio", {"domain": "ad", "feature": "user_id"}) == 0.1
    assert value("ecdctr_drift_domain_js_ratio", {"feature": "score"}) == 0.3
    assert value("ecdctr_drift_alarms_total", WATCHED) == 0
    telemetry.observe(figures(math.nan, math.nan))
    assert value("ecdctr_drift_statistic", WATCHED) is None
    assert value("ecdctr_drift_psi_ratio", SEGMENT) is None


def test_a_figure_that_is_gone_has_no_sample():
    registry = CollectorRegistry()
    telemetry = DriftTelemetry(registry)
    telemetry.observe(figures(1.5, 0.4))
    telemetry.observe(DriftFigures({}, {}, {"ad": FeatureDistances()}, {}))
    for name, labels in (
        ("psi_ratio", SEGMENT),
        ("domain_js_ratio", {"feature": "score"}),
        ("unseen_ids_ratio", {"domain": "ad", "feature": "user_id"}),
    ):
        assert registry.get_sample_value(f"ecdctr_drift_{name}", labels) is None


def test_alarms_of_this_process_are_counted_and_earlier_ones_dated():
    registry = CollectorRegistry()
    value = registry.get_sample_value
    telemetry = DriftTelemetry(registry)
    telemetry.observe(figures(0.0, 0.0))
    telemetry.going_on([Alarm(5_000, "ad", "ctr", "adwin", 0.5)])
    assert value("ecdctr_drift_alarm_event_time_seconds", WATCHED) == 5
    assert value("ecdctr_drift_alarms_total", WATCHED) == 0
    telemetry.alarmed([Alarm(7_000, "ad", "ctr", "adwin", 0.5)])
    assert value("ecdctr_drift_alarm_event_time_seconds", WATCHED) == 7
    assert value("ecdctr_drift_alarms_total", WATCHED) == 1
