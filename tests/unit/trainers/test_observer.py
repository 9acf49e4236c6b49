"""What the trainer's observer tells, and when."""

from types import SimpleNamespace

import numpy as np
import pytest
from log_support import SCHEMA, START_MS, impressions
from prometheus_client import CollectorRegistry

from monitoring.telemetry import TrainerTelemetry
from monitoring.window import Window
from streaming.impressions import Batch
from streaming.reader import Counts, Lag
from trainers import observer
from trainers.checkpoint import Progress
from trainers.observer import Observer

LABELS = {"level": "actr", "rank": "0"}


class Clock:
    def __init__(self):
        self.now, self.a_measurement_takes = 1_000.0, 0.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now

    def lag(self):
        self.now += self.a_measurement_takes
        return Lag(0, 0.0)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(observer, "time", clock)
    return clock


@pytest.fixture
def own(clock):
    reader = SimpleNamespace(lag=clock.lag, counts=Counts())
    learner = SimpleNamespace(vocabulary_stats=dict)
    telemetry = TrainerTelemetry(CollectorRegistry(), "actr")
    return Observer(telemetry, Window(8), SCHEMA, learner, reader)


def learn(own, number, size=3):
    ids = range(number * size, (number + 1) * size)
    batch = Batch(impressions(ids), None, {}, watermark=START_MS + number, appended_at=number)
    own.learnt(batch, np.full(size, number / 10, np.float32), loss=float(number), seconds=0.5)


def told(own, name):
    return own.telemetry._registry.get_sample_value(f"ecdctr_{name}", LABELS)


def test_batches_are_told_together_in_order_a_quarter_second_later(own, clock):
    own.turn(Progress())
    for number in (1, 2, 3):
        learn(own, number)
        own.turn(Progress())
    assert told(own, "batches_total") == 0 and not len(own.window)
    clock.now += observer.TELL_SECONDS
    own.turn(Progress())
    assert told(own, "batches_total") == 3 and told(own, "impressions_learnt_total") == 9
    assert told(own, "step_seconds_sum") == 1.5 and told(own, "loss_nats") == 3.0
    assert told(own, "event_time_seconds") == (START_MS + 3) / 1_000
    held = own.window.columns()
    np.testing.assert_allclose(held["probability"], [0.1] * 2 + [0.2] * 3 + [0.3] * 3)
    assert held["user"].tolist() == [i % 17 for i in range(4, 12)]
    assert held["click"].tolist() == [i % 3 == 0 for i in range(4, 12)]
    assert held["event_time"].tolist() == [START_MS + 10 * i for i in range(4, 12)]


def test_what_is_measured_or_concluded_has_everything_that_was_learnt(own):
    learn(own, 1)
    own.measure()
    assert own.metrics()["impressions"] == 3
    learn(own, 2)
    assert "over the last 6" in own.conclude(Progress(impressions=6))[0]


@pytest.mark.parametrize(
    ("takes", "pause"), [(0.001, 2.0), (0.01, 4.0), (3.0, 5.0)], ids=["quick", "slow", "slower"]
)
def test_slow_measurements_come_less_often(own, clock, takes, pause):
    clock.a_measurement_takes = takes
    own.turn(Progress())
    after = clock.now
    clock.now = after + pause - 0.01
    own.turn(Progress())
    assert clock.now == after + pause - 0.01
    clock.now = after + pause + 0.01
    own.turn(Progress())
    assert clock.now == pytest.approx(after + pause + 0.01 + takes)
