import math

from prometheus_client import CollectorRegistry

from monitoring.history_telemetry import HistoryTelemetry

OWN = {"level": "cpm", "rank": "1"}


def test_shares_age_and_waiting_have_samples_where_they_are_known():
    registry = CollectorRegistry()
    telemetry = HistoryTelemetry(registry, "cpm", rank=1)
    value = registry.get_sample_value
    telemetry.age(5_000, 0)
    assert value("ecdctr_history_age_seconds", OWN) is None
    assert value("ecdctr_history_wait_seconds_total", OWN) == 0
    telemetry.age(5_000, 3_000)
    telemetry.known({"user": 0.5, "item": math.nan})
    telemetry.waited(0.25)
    assert value("ecdctr_history_age_seconds", OWN) == 2.0
    assert value("ecdctr_impressions_with_history_ratio", OWN | {"kind": "user"}) == 0.5
    assert value("ecdctr_impressions_with_history_ratio", OWN | {"kind": "item"}) is None
    assert value("ecdctr_history_wait_seconds_total", OWN) == 0.25
