import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import roc_auc_score

from monitoring import metrics


@st.composite
def windows(draw, min_size=0):
    """A few users, scores on a coarse grid so that ties are common."""
    n = draw(st.integers(min_size, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    user = rng.integers(0, draw(st.integers(1, 12)), n) * (2**62 // 16)
    rate = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    click = (rng.random(n) < rate).astype(np.int8)
    grid = draw(st.sampled_from([1, 2, 5, 1_000_000]))
    probability = ((rng.integers(0, grid, n) + 0.5) / grid).astype(np.float32)
    return user, click, probability


def brute_auc(click, probability):
    """Every pair of a click and a non-click: 1 if ordered well, one half if tied."""
    positive, negative = probability[click == 1], probability[click == 0]
    if not len(positive) or not len(negative):
        return math.nan
    wins = [(p > q) + (p == q) / 2 for p in positive for q in negative]
    return sum(wins) / len(wins)


def brute_gauc(user, click, probability):
    aucs = [
        (brute_auc(click[user == u], probability[user == u]), int((user == u).sum()))
        for u in np.unique(user)
    ]
    used = [(a, n) for a, n in aucs if not math.isnan(a)]
    total = sum(n for _, n in used)
    return metrics.Gauc(
        weighted=sum(a * n for a, n in used) / total if used else math.nan,
        unweighted=sum(a for a, _ in used) / len(used) if used else math.nan,
        groups_used=len(used),
        groups_skipped=len(aucs) - len(used),
        impressions=total,
    )


def test_gauc_of_a_window_worked_by_hand():
    # User 7: click at .8 beats .1, ties with the other .8: (1 + 1/2) / 2 = 3/4, 3 impressions.
    # User 9: click at .2 below .3: 0, 2 impressions. User 4: clicks only, left out.
    user = [7, 9, 7, 4, 7, 9]
    click = [1, 1, 0, 1, 0, 0]
    probability = [0.8, 0.2, 0.8, 0.5, 0.1, 0.3]
    got = metrics.gauc(user, click, probability)
    assert got == metrics.Gauc(
        weighted=(3 * 0.75 + 2 * 0.0) / 5,
        unweighted=0.375,
        groups_used=2,
        groups_skipped=1,
        impressions=5,
    )


@given(windows())
def test_gauc_equals_brute_force(window):
    got, want = metrics.gauc(*window), brute_gauc(*window)
    assert (got.groups_used, got.groups_skipped, got.impressions) == (
        want.groups_used,
        want.groups_skipped,
        want.impressions,
    )
    np.testing.assert_allclose(got.weighted, want.weighted, rtol=1e-12)
    np.testing.assert_allclose(got.unweighted, want.unweighted, rtol=1e-12)


@given(windows())
def test_auc_equals_scikit_learn(window):
    _, click, probability = window
    want = roc_auc_score(click, probability) if 0 < click.sum() < len(click) else math.nan
    np.testing.assert_allclose(metrics.auc(click, probability), want, rtol=1e-12)


@given(windows())
def test_both_at_once_are_what_each_is_by_itself(window):
    user, click, probability = window
    found, auc = metrics.gauc_and_auc(user, click, probability)
    assert repr(found) == repr(metrics.gauc(user, click, probability))
    assert repr(auc) == repr(metrics.auc(click, probability))


@given(windows(min_size=1))
def test_log_loss_equals_scikit_learn(window):
    _, click, probability = window
    probability = probability.astype(np.float64)
    want = sk_log_loss(click, probability, labels=[0, 1])
    np.testing.assert_allclose(metrics.log_loss(click, probability), want, rtol=1e-12)


@given(windows(min_size=1))
def test_calibration_against_plain_sums(window):
    _, click, probability = window
    probability = probability.astype(np.float64)
    np.testing.assert_allclose(
        metrics.copc(click, probability), sum(click.tolist()) / sum(probability.tolist())
    )
    rate = click.mean()
    if 0 < rate < 1:
        entropy = sk_log_loss(click, np.full(len(click), rate), labels=[0, 1])
        want = sk_log_loss(click, probability, labels=[0, 1]) / entropy
    else:
        want = math.nan
    np.testing.assert_allclose(metrics.normalized_entropy(click, probability), want)


@settings(max_examples=20)
@given(windows(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(window, random):
    order = list(range(len(window[0])))
    random.shuffle(order)
    shuffled = [column[order] for column in window]
    np.testing.assert_equal(metrics.gauc(*shuffled), metrics.gauc(*window))


def test_certain_mistakes_are_finite_and_like_scikit_learn():
    click, probability = np.array([1, 0]), np.array([0.0, 1.0])
    want = sk_log_loss(click, probability)
    np.testing.assert_allclose(metrics.log_loss(click, probability), want)


def test_empty_windows_and_single_rows_are_undefined_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = metrics.gauc([], [], [])
        assert math.isnan(empty.weighted)
        assert math.isnan(empty.unweighted)
        assert (empty.groups_used, empty.groups_skipped, empty.impressions) == (0, 0, 0)
        assert math.isnan(metrics.auc([], []))
        assert math.isnan(metrics.log_loss([], []))
        assert math.isnan(metrics.normalized_entropy([], []))
        assert math.isnan(metrics.copc([], []))
        assert math.isnan(metrics.copc([0, 1], [0.0, 0.0]))
        one = metrics.gauc([3], [1], [0.9])
        assert math.isnan(one.weighted)
        assert (one.groups_used, one.groups_skipped) == (0, 1)
        assert math.isnan(metrics.normalized_entropy([1], [0.9]))
        assert math.isnan(metrics.gauc_interval([3], [1], [0.9]).low)


@pytest.mark.parametrize(
    ("user", "click", "probability", "message"),
    [
        ([1, 2], [0, 1], [0.5, math.nan], "1 of 2 probabilities are NaN"),
        ([1, 2], [0, 2], [0.5, 0.5], "neither 0 nor 1"),
        ([1, 2], [0.0, math.nan], [0.5, 0.5], "neither 0 nor 1"),
        ([1, 2], [0, 1], [0.5], "probabilities"),
        ([1], [0, 1], [0.5, 0.5], "users"),
    ],
)
def test_bad_input_is_named(user, click, probability, message):
    with pytest.raises(ValueError, match=message):
        metrics.gauc(user, click, probability)


@pytest.mark.parametrize("function", [metrics.log_loss, metrics.normalized_entropy, metrics.copc])
def test_probabilities_outside_the_unit_interval_are_refused(function):
    with pytest.raises(ValueError, match="outside 0..1"):
        function([0, 1], [0.5, 1.5])
    with pytest.raises(ValueError, match="NaN"):
        function([0, 1], [0.5, math.nan])


def test_interval_covers_the_gauc_and_tells_skill_from_chance():
    rng = np.random.default_rng(5)
    user = rng.integers(0, 200, 5_000)
    probability = rng.random(5_000)
    skilled = rng.random(5_000) < probability
    interval = metrics.gauc_interval(user, skilled, probability)
    assert 0.5 < interval.low < metrics.gauc(user, skilled, probability).weighted < interval.high
    assert interval == metrics.gauc_interval(user, skilled, probability)
    coin = rng.random(5_000) < 0.3
    chance = metrics.gauc_interval(user, coin, probability)
    assert chance.low < 0.5 < chance.high


def test_interval_is_as_wide_as_the_spread_over_users_says():
    # n users of two impressions each, half of them with AUC 1 and half with 0:
    # the mean of n coin tosses, standard error 0.5 / sqrt(n).
    n = 400
    user = np.repeat(np.arange(n), 2)
    click = np.tile([1, 0], n)
    good = np.arange(n) % 2 == 0
    probability = np.where(np.repeat(good, 2) == (click == 1), 0.9, 0.1)
    interval = metrics.gauc_interval(user, click, probability)
    np.testing.assert_allclose(interval.high - interval.low, 2 * 1.96 * 0.5 / n**0.5, rtol=0.15)


def test_calibration_bins_are_even_and_keep_equal_predictions_together():
    p = np.random.default_rng(0).permutation(np.arange(100) / 100)
    bins = metrics.calibration(p >= 0.5, p)
    assert [b.impressions for b in bins] == [10] * 10
    assert [b.clicked for b in bins] == [0] * 5 + [1] * 5
    assert bins[0].predicted == pytest.approx(0.045)
    assert bins[-1].copc == pytest.approx(1 / 0.945)
    tied = metrics.calibration(np.arange(100) % 2, np.repeat([0.2, 0.4], 50))
    assert [b.impressions for b in tied if b.impressions] == [50, 50]
    assert all(math.isnan(b.copc) for b in tied if not b.impressions)
    assert [b.impressions for b in metrics.calibration([], [])] == [0] * 10
