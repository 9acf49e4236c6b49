from prometheus_client import CollectorRegistry

from monitoring.period_telemetry import PeriodTelemetry
from monitoring.telemetry import TrainerTelemetry

TPM = {"level": "tpm", "rank": "0"}


def test_the_last_closed_period_is_told():
    registry = CollectorRegistry()
    TrainerTelemetry(registry, "tpm")
    telemetry = PeriodTelemetry(registry, "tpm")
    value = registry.get_sample_value
    assert value("ecdctr_period_end_seconds", TPM) is None
    telemetry.going_on(86_400_000)
    assert value("ecdctr_period_end_seconds", TPM) == 86_400
    telemetry.closed(172_800_000, {"user": 12, "item": 3}, seconds=0.2)
    assert value("ecdctr_period_end_seconds", TPM) == 172_800
    assert value("ecdctr_snapshot_entities", {**TPM, "kind": "user"}) == 12
    assert value("ecdctr_snapshot_entities", {**TPM, "kind": "item"}) == 3
    assert value("ecdctr_snapshot_seconds_sum", TPM) == 0.2
