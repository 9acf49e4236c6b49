import math

import numpy as np
import pytest

from monitoring.drift.signals import LIMIT, SIGNALS, SUMS, Baseline, sums_by_step, values_of
from monitoring.metrics import log_loss

RNG = np.random.default_rng(0)


def rows(n, hours=24):
    probability = RNG.random(n)
    time = RNG.integers(0, hours * 3_600_000, n)
    return time, (RNG.random(n) < probability).astype(np.int8), probability


def log_loss_expected(p):
    """Of probabilities that are right."""
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean())


def test_a_steps_values_are_those_of_its_impressions():
    time, click, p = rows(5_000)
    found = sums_by_step(time, click, p, 6 * 3_600_000)
    assert sorted(found) == [0, 1, 2, 3]
    for step, sums in found.items():
        of_step = time // (6 * 3_600_000) == step
        c, q = click[of_step], p[of_step]
        values = values_of(sums)
        odds = np.log(q / (1 - q))
        excess = log_loss(c, q) - log_loss_expected(q)
        assert excess * len(q) == pytest.approx(((q - c) * odds).sum())
        centred, v = odds - (q * (1 - q) * odds).sum() / (q * (1 - q)).sum(), q * (1 - q)
        expected = ((q - c) * centred).sum() / math.sqrt((v * centred**2).sum())
        assert values["log_loss"] == pytest.approx(expected)
        assert values["score"] == pytest.approx(q.mean())
        assert values["ctr"] == pytest.approx(c.mean())
        expected = (c.sum() - q.sum()) / math.sqrt((q * (1 - q)).sum())
        assert values["calibration"] == pytest.approx(expected)


def test_sums_of_parts_add_up_to_those_of_the_whole():
    time, click, p = rows(999)
    whole = sums_by_step(time, click, p, 3_600_000)
    parts = [sums_by_step(time[i::3], click[i::3], p[i::3], 3_600_000) for i in range(3)]
    for step, sums in whole.items():
        assert sum(part.get(step, 0) for part in parts) == pytest.approx(sums)


@pytest.mark.parametrize("signal", ["calibration", "log_loss"])
def test_of_a_model_that_is_right_both_errors_are_standard_normal(signal):
    found = [
        values_of(next(iter(sums_by_step(*rows(500, 1), 3_600_000).values()))) for _ in range(300)
    ]
    errors = [values[signal] for values in found]
    assert np.mean(errors) == pytest.approx(0, abs=0.2)
    assert np.std(errors) == pytest.approx(1, abs=0.15)


def test_each_error_has_its_own_signal():
    time, click, p = rows(20_000, 1)
    odds = np.log(p / (1 - p))

    def errors(wrong):
        q = 1 / (1 + np.exp(-wrong))
        values = values_of(next(iter(sums_by_step(time, click, q, 3_600_000).values())))
        return values["calibration"], values["log_loss"]

    too_high, too_sure = errors(odds + 0.3), errors(2 * odds)
    assert too_high[0] < -10 and abs(too_high[1]) < 4
    assert too_sure[1] > 10 and abs(too_sure[0]) < 4


def test_certain_predictions_and_too_few_impressions():
    certain = (np.array(x) for x in ([0, 0, 0], [0, 1, 0], [1.0, 0.0, 0.5]))
    sums = next(iter(sums_by_step(*certain, 1).values()))
    assert all(math.isfinite(x) for x in (values_of(sums)["ctr"], values_of(sums)["calibration"]))
    assert all(math.isnan(x) for x in values_of(sums, 4).values())
    assert all(math.isnan(x) for x in values_of(np.zeros(SUMS)).values())
    assert set(values_of(sums)) == set(SIGNALS)
    alike = next(iter(sums_by_step(np.zeros(3, int), np.eye(3)[0], np.full(3, 0.3), 1).values()))
    assert math.isnan(values_of(alike)["log_loss"]) and math.isfinite(values_of(alike)["ctr"])
    nothing = np.empty(0)
    assert sums_by_step(nothing.astype(int), nothing, nothing, 1) == {}


def test_there_is_no_distance_before_there_are_enough_days():
    baseline = Baseline(days=10, warm_up_days=3, steps_per_day=2)
    distances = [baseline.distance(step, float(RNG.normal())) for step in range(8)]
    assert [math.isnan(d) for d in distances] == [True] * 6 + [False] * 2


def test_distances_of_noise_are_about_standard_and_days_ups_and_downs_are_none():
    baseline = Baseline(days=14, warm_up_days=5, steps_per_day=4)
    time_of_day = [0.0, 50.0, 0.0, -80.0]
    distances = np.array(
        [baseline.distance(s, time_of_day[s % 4] + 3 * RNG.normal()) for s in range(2_000)]
    )[20:]
    assert abs(distances.mean()) < 0.1 and distances.std() == pytest.approx(1, abs=0.1)
    assert baseline.distance(2_001, 50.0 + 12.0) > 2.5
    assert baseline.distance(2_003, 0.0) == LIMIT


def test_constants_are_at_distance_nothing_and_nan_is_kept_out():
    baseline = Baseline(days=5, warm_up_days=2, steps_per_day=1)
    assert [baseline.distance(s, 0.1) for s in range(2, 12)] == pytest.approx(
        [math.nan] * 2 + [0.0] * 8, nan_ok=True
    )
    assert math.isnan(baseline.distance(12, math.nan))
    assert baseline.distance(13, 0.1) == 0
    assert baseline.distance(14, 0.2) == LIMIT


def test_days_older_than_the_baseline_are_forgotten():
    baseline = Baseline(days=5, warm_up_days=2, steps_per_day=1)
    for step in range(5):
        baseline.distance(step, 100.0)
    for step in range(5, 10):
        baseline.distance(step, float(RNG.normal()))
    assert abs(baseline.distance(10, 0.0)) < LIMIT


def test_a_baseline_goes_on_after_a_restart():
    whole, second = Baseline(6, 3, 2), Baseline(6, 3, 2)
    for step in range(9):
        whole.distance(step, float(RNG.normal()))
    second.from_state(whole.state())
    for step in range(9, 30):
        x = float(RNG.normal())
        assert second.distance(step, x) == whole.distance(step, x)
