import numpy as np
import pytest

from monitoring.comparison import gauc_differences, mean_with_interval
from monitoring.metrics import forgetting, gauc

RNG = np.random.default_rng(5)
ROWS, USERS = 600, 25
USER = RNG.integers(0, USERS, ROWS)
CHANCE = RNG.random(ROWS)
CLICK = (RNG.random(ROWS) < CHANCE).astype(np.int8)
GOOD, FAIR, NOISE = CHANCE, CHANCE + RNG.normal(0, 0.3, ROWS), RNG.random(ROWS)


def test_differences_are_those_of_the_gaucs():
    found = gauc_differences(USER, CLICK, [GOOD, FAIR, NOISE])
    values = [gauc(USER, CLICK, p).weighted for p in (GOOD, FAIR, NOISE)]
    assert set(found) == {(0, 1), (0, 2), (1, 2)}
    for (a, b), difference in found.items():
        assert difference.difference == pytest.approx(values[a] - values[b], abs=1e-12)
        assert difference.interval.low < difference.difference < difference.interval.high
    assert found[0, 2].clear and found[1, 2].clear


def test_the_bootstrap_is_that_of_drawing_whole_users():
    """Each resampling done the long way: every drawn user's impressions, as a user anew."""
    resamples, seed = 200, 3
    found = gauc_differences(USER, CLICK, [GOOD, NOISE], resamples=resamples, seed=seed)[0, 1]
    valid = [u for u in range(USERS) if 0 < CLICK[u == USER].mean() < 1]
    rng = np.random.default_rng(seed)
    slow = []
    for draw in rng.integers(0, len(valid), (resamples, len(valid))):
        rows = [np.flatnonzero(valid[u] == USER) for u in draw]
        who = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        index = np.concatenate(rows)
        slow.append(
            gauc(who, CLICK[index], GOOD[index]).weighted
            - gauc(who, CLICK[index], NOISE[index]).weighted
        )
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found.interval.low == pytest.approx(low, abs=1e-12)
    assert found.interval.high == pytest.approx(high, abs=1e-12)


def test_equal_models_differ_by_nothing_and_a_lone_user_gives_no_interval():
    same = gauc_differences(USER, CLICK, [GOOD, GOOD])[0, 1]
    assert (same.difference, same.interval.low, same.interval.high) == (0, 0, 0)
    assert not same.clear
    lone = gauc_differences(np.zeros(4), [0, 1, 0, 1], [np.arange(4.0), np.arange(4.0)])[0, 1]
    assert np.isnan(lone.interval.low) and not lone.clear


def test_forgetting_follows_its_definition():
    nan = np.nan
    r = [[0.7, nan, nan], [0.8, 0.6, nan], [0.65, 0.7, 0.9]]
    found = forgetting(r)
    assert found.backward_transfer == pytest.approx(((0.65 - 0.7) + (0.7 - 0.6)) / 2)
    assert found.forgetting == pytest.approx(((0.8 - 0.65) + (0.7 - 0.7)) / 2)


def test_forgetting_leaves_out_what_is_not_known_and_what_lies_ahead():
    nan = np.nan
    r = np.array([[0.7, 0.99, 0.99], [nan, nan, 0.99], [0.6, 0.5, 0.9]])
    found = forgetting(r)
    assert found.backward_transfer == pytest.approx(-0.1)
    assert found.forgetting == pytest.approx(0.1)
    nothing = forgetting([[0.5]])
    assert np.isnan(nothing.backward_transfer) and np.isnan(nothing.forgetting)
    with pytest.raises(ValueError, match="as many rows as columns"):
        forgetting([[0.5, 0.6]])


def test_forgetting_of_a_later_model_is_over_all_periods_but_the_newest():
    nan = np.nan
    r = [[0.7, nan, nan], [0.8, 0.6, nan], [0.65, 0.7, 0.9], [0.75, 0.5, 0.1]]
    found = forgetting(r)
    assert found.backward_transfer == pytest.approx(((0.75 - 0.7) + (0.5 - 0.6)) / 2)
    assert found.forgetting == pytest.approx(((0.8 - 0.75) + (0.7 - 0.5)) / 2)


def test_the_interval_of_a_mean_is_students():
    """Five values against the textbook: mean 3, deviation sqrt(2.5), t = 2.776."""
    found = mean_with_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.difference == 3.0
    assert found.interval.low == pytest.approx(3 - 2.776 * 0.5**0.5, abs=1e-9)
    assert found.interval.high == pytest.approx(3 + 2.776 * 0.5**0.5, abs=1e-9)
    assert found.clear and not mean_with_interval([-1.0, 2.0]).clear


def test_one_value_has_a_mean_and_no_interval():
    found = mean_with_interval([0.5])
    assert found.difference == 0.5 and np.isnan(found.interval.low) and not found.clear
