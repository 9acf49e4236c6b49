"""One suite for every implementation of the contract of detectors."""

import json
import math

import numpy as np
import pytest

from monitoring.drift.detectors import DETECTORS, Always, Never, watchers_of
from monitoring.drift.settings import AdwinConfig, DriftConfig, KswinConfig, PageHinkleyConfig

CONFIG = DriftConfig()  # the settings that are shipped
REAL = {name: lambda make=make: make(CONFIG) for name, make in DETECTORS.items()}
EVERY = {**REAL, "never": Never, "always": Always}
NOISE_VALUES, NOISE_ALARMS = 4_000, 8
"""On stationary noise at most one alarm in 500 values."""


def each(which):
    return pytest.mark.parametrize("make", which.values(), ids=which)


def noise(n, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, n).tolist()


def alarms(detector, values):
    found = []
    for i, x in enumerate(values):
        detector.update(x)
        if detector.drift_detected:
            found.append(i)
    return found


@each({**REAL, "never": Never})
@pytest.mark.parametrize("constant", [0.0, -3.5, 1e6])
def test_constants_are_no_drift(make, constant):
    assert alarms(make(), [constant] * 500) == []


@each({**REAL, "never": Never})
def test_noise_is_hardly_ever_drift(make):
    assert len(alarms(make(), noise(NOISE_VALUES))) <= NOISE_ALARMS


@each(REAL)
@pytest.mark.parametrize("step", [4.0, -4.0])
def test_a_large_step_is_drift_within_twelve_values(make, step):
    detector = make()
    assert alarms(detector, noise(100)) == []
    found = alarms(detector, noise(60, step, seed=1))
    assert found and found[0] < 12


@each(EVERY)
def test_nan_is_no_value(make):
    with_gaps, without = make(), make()
    values = noise(100) + noise(60, 4.0, seed=1)
    for x in values:
        with_gaps.update(math.nan)
        assert not with_gaps.drift_detected
        with_gaps.update(x)
        without.update(x)
        assert with_gaps.drift_detected == without.drift_detected
        assert same(with_gaps.statistic, without.statistic)


@each(EVERY)
@pytest.mark.parametrize("cut", [0, 3, 80, 104, 108, 150])
def test_a_restart_changes_nothing(make, cut):
    values = noise(100) + noise(60, 4.0, seed=1) + noise(60, seed=2)
    whole, first = make(), make()
    for x in values[:cut]:
        whole.update(x)
        first.update(x)
    second = make()
    second.from_state(json.loads(json.dumps(first.state())))
    assert second.drift_detected == whole.drift_detected
    for x in values[cut:]:
        whole.update(x)
        second.update(x)
        assert second.drift_detected == whole.drift_detected
        assert same(second.statistic, whole.statistic)


@each(REAL)
def test_after_an_alarm_the_new_is_normal_and_the_old_a_change(make):
    detector = make()
    there, back = noise(60, 6.0, seed=1), noise(60, seed=2)
    assert alarms(detector, noise(100) + there) != []
    assert alarms(detector, noise(120, 6.0, seed=3)) == []
    assert alarms(detector, back) != []


def test_always_and_never_are_what_they_say():
    assert alarms(Always(), noise(10)) == list(range(10))
    assert alarms(Never(), noise(10) + [1e9]) == []


@each(REAL)
def test_a_state_of_other_settings_is_not_gone_on_with(make):
    detector, fresh = make(), make()
    alarms(detector, noise(70))
    state = {**detector.state(), "made_by": "river 0.1 {}"}
    fresh.from_state(state)
    assert same(fresh.statistic, make().statistic) and not same(fresh.statistic, detector.statistic)


def test_a_signal_has_the_detectors_that_watch_it():
    config = DriftConfig(
        adwin=AdwinConfig(signals=("ctr",)),
        kswin=KswinConfig(signals=()),
        page_hinkley=PageHinkleyConfig(signals=("ctr", "score")),
    )
    assert set(watchers_of("ctr", config)) == {"adwin", "page_hinkley"}
    assert set(watchers_of("score", config)) == {"page_hinkley"}
    assert watchers_of("log_loss", config) == {}


def same(left, right):
    return left == right or (math.isnan(left) and math.isnan(right))
