"""Drift within the monitor: what it is fed, when it goes on, and what it tells."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from monitoring.drift.settings import DriftConfig, EarlyConfig
from monitoring.drift_observer import DriftObserver
from monitoring.drift_telemetry import DriftTelemetry
from monitoring.sampled_rows import Predicted
from monitoring.watermark import NEVER
from streaming.control import Request
from streaming.impressions import ImpressionSchema
from streaming.market import Market
from streaming.market_config import MarketConfig

HOUR = 3_600_000
DAY = 24 * HOUR
CONFIG = DriftConfig(min_impressions=10)
SCHEMA = ImpressionSchema()
BEGIN = 20_000 * DAY
CHANGE = 15  # day on which twice as many ads are clicked


def day_of(number: int, rng: np.random.Generator) -> Predicted:
    """400 predictions an hour of a model that is right until CHANGE."""
    n = 400 * 24
    time_N = BEGIN + number * DAY + np.sort(rng.integers(0, DAY, n))
    probability_N = np.full(n, 0.1, np.float32)
    click_N = rng.random(n) < (0.2 if number >= CHANGE else 0.1)
    user_N, version_N = rng.integers(0, 50, n), np.zeros(n, np.int64)
    return Predicted(time_N, user_N, click_N.astype(np.int8), probability_N, version_N)


def watermarks(**known: int) -> dict[str, int]:
    return dict.fromkeys(("actr", "cpm", "tpm", "ad", "natural"), NEVER) | known


class Outbox:
    """A sender; ``away``: nothing that it has goes out."""

    def __init__(self, away: bool = False) -> None:
        self.sent: list[Request] = []
        self.away = away

    def send(self, request: Request) -> None:
        self.sent.append(request)

    @property
    def waiting(self) -> list[Request]:
        return self.sent if self.away else []


def observer(
    registry: CollectorRegistry | None = None,
    outbox: Outbox | None = None,
    config: DriftConfig = CONFIG,
) -> DriftObserver:
    telemetry = DriftTelemetry(registry or CollectorRegistry())
    return DriftObserver(config, SCHEMA, telemetry, outbox or Outbox())


def through(watching: DriftObserver, days: range, seed: int = 1) -> None:
    for number in days:
        watching.predictions("actr", day_of(number, np.random.default_rng((seed, number))))
        end = BEGIN + (number + 1) * DAY
        watching.advance(watermarks(actr=end, ad=end))


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"ecdctr_{name}", labels)


def test_a_change_is_an_alarm_in_words_and_in_metrics():
    registry = CollectorRegistry()
    watching = observer(registry)
    through(watching, range(CHANGE))
    assert not watching.alarms()
    through(watching, range(CHANGE, CHANGE + 4))
    found = watching.alarms()
    assert found and all(alarm.event_time > BEGIN + CHANGE * DAY for alarm in found)
    assert any("calibration of ad impressions changed (page" in alarm.words for alarm in found)
    watching.tell()
    labels = {"domain": "ad", "signal": "calibration", "detector": "page_hinkley"}
    assert value(registry, "drift_alarms_total", **labels) >= 1
    assert value(registry, "drift_alarm_event_time_seconds", **labels) > BEGIN / 1000


@pytest.mark.parametrize("cut", [3, CHANGE - 1, CHANGE + 1])
def test_a_restart_changes_nothing(cut):
    whole, first = observer(), observer()
    through(whole, range(CHANGE + 4))
    through(first, range(cut))
    second = observer()
    second.restore(first.state())
    through(second, range(cut, CHANGE + 4))
    assert second.alarms() == whole.alarms() != []
    state, expected = second.state(), whole.state()
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)


# An alarm about ads' calibration stands for one that is worth asking for.
CLOSED = CONFIG.model_copy(
    update={
        "closes_loop": True,
        "early": EarlyConfig(domains=("ad",), signals=("calibration",)),
    }
)


def test_an_alarm_asks_and_every_decision_is_counted_and_logged(caplog):
    caplog.set_level(logging.INFO, "monitoring.drift_observer")
    registry, outbox = CollectorRegistry(), Outbox()
    watching = observer(registry, outbox, CLOSED)
    watching.tell()
    asked = {"ask": "period", "decision": "asked"}
    assert value(registry, "drift_decisions_total", **asked) == 0
    through(watching, range(CHANGE + 4))
    assert [request.ask for request in outbox.sent] == ["period", "hand-down"]
    (at,) = {request.at for request in outbox.sent}
    assert at in {alarm.event_time for alarm in watching.alarms()}
    assert value(registry, "drift_decisions_total", **asked) == 1
    decided = [record for record in caplog.records if "early" in record.message]
    assert len(decided) == 2 * len(watching.alarms())
    assert "calibration of ad impressions" in decided[0].message


def test_off_it_asks_for_nothing():
    registry, outbox = CollectorRegistry(), Outbox()
    off = CLOSED.model_copy(update={"closes_loop": False})
    watching = observer(registry, outbox, off)
    through(watching, range(CHANGE + 4))
    assert watching.alarms() and not outbox.sent
    assert value(registry, "drift_decisions_total", ask="period", decision="off") == 1


@pytest.mark.parametrize("cut", [3, CHANGE + 1])
def test_a_monitor_that_repeats_itself_asks_the_same_again(cut):
    first, second = Outbox(), Outbox()
    watching = observer(None, first, CLOSED)
    through(watching, range(cut))
    before, state = list(first.sent), watching.state()
    through(watching, range(cut, CHANGE + 4))
    again = observer(None, second, CLOSED)
    again.restore(state)
    through(again, range(cut, CHANGE + 4))
    assert before + second.sent == first.sent != []


def test_what_did_not_go_out_is_sent_by_the_next_process():
    first, second = Outbox(away=True), Outbox()
    watching = observer(None, first, CLOSED)
    through(watching, range(CHANGE + 4))
    observer(None, second, CLOSED).restore(watching.state())
    assert second.sent == first.sent != []
    off = Outbox()
    observer(None, off, CONFIG).restore(watching.state())
    assert not off.sent, "the loop is off now"


def test_a_checkpoint_from_before_the_loop_is_gone_on_from():
    watching = observer()
    through(watching, range(3))
    state = {name: array for name, array in watching.state().items() if name != "loop"}
    again = observer()
    again.restore(state)
    assert again.state().keys() == watching.state().keys()


def test_a_domain_goes_on_with_the_slower_of_its_predictions_and_its_impressions():
    fast, slow = observer(), observer()
    through(fast, range(CHANGE + 4))
    for number in range(CHANGE + 4):
        slow.predictions("actr", day_of(number, np.random.default_rng((1, number))))
        slow.advance(watermarks(actr=BEGIN + (number + 1) * DAY, ad=BEGIN))
    assert not slow.alarms()
    end = BEGIN + (CHANGE + 4) * DAY
    slow.advance(watermarks(actr=end, ad=end))
    assert slow.alarms() == fast.alarms()


def test_features_are_compared_without_a_level_that_predicts():
    registry = CollectorRegistry()
    watching = observer(registry)
    market = Market(MarketConfig(days=12, natural_per_day=2_000, ads_per_day=1_000))
    for slot in market.slots():
        watching.impressions("natural", slot.natural)
        watching.impressions("ad", slot.ad)
        end = int(np.asarray(slot.natural.column("event_time")).max())
        watching.advance(watermarks(natural=end, ad=end))
    watching.tell()
    psi = value(registry, "drift_psi_ratio", domain="natural", feature="segment")
    assert psi is not None and 0 <= psi < 0.2
    assert value(registry, "drift_domain_js_ratio", feature="item_id") > 0.2
    assert value(registry, "drift_unseen_ids_ratio", domain="ad", feature="user_id") < 0.5
