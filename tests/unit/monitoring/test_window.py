import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import metrics
from monitoring.window import COLUMNS, Window


def impressions(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, 2**62, 8)[rng.integers(0, 8, n)],
        "click": rng.integers(0, 2, n).astype(np.int8),
        "probability": rng.random(n, np.float32),
        "event_time": np.arange(n) * 1000,
        "truth": rng.random(n, np.float32),
    }


def cut(columns, sizes):
    edges = np.cumsum([0, *sizes])
    return [
        {name: c[a:b] for name, c in columns.items()}
        for a, b in zip(edges, edges[1:], strict=False)
    ]


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50))
def test_holds_exactly_the_newest_rows_however_they_are_cut(sizes, size):
    columns = impressions(sum(sizes))
    window = Window(size)
    for batch in cut(columns, sizes):
        window.update(**batch)
    held = window.columns()
    for name in COLUMNS:
        np.testing.assert_array_equal(held[name], columns[name][-size:])
    assert len(window) == min(size, sum(sizes))


def test_metrics_are_those_of_the_newest_rows():
    columns = impressions(500)
    window = Window(200)
    window.update(**columns)
    user, click, p = (columns[name][-200:] for name in ("user", "click", "probability"))
    got = window.metrics()
    want = metrics.gauc(user, click, p)
    assert (got.gauc, got.gauc_unweighted) == (want.weighted, want.unweighted)
    assert (got.groups_used, got.groups_skipped) == (want.groups_used, want.groups_skipped)
    assert got.auc == metrics.auc(click, p)
    assert got.log_loss == metrics.log_loss(click, p)
    assert got.normalized_entropy == metrics.normalized_entropy(click, p)
    assert got.copc == metrics.copc(click, p)
    assert got.ctr == click.mean()
    assert got.gauc_ceiling == metrics.gauc(user, click, columns["truth"][-200:]).weighted


@given(st.integers(0, 120), st.integers(1, 60))
def test_goes_on_bit_equal_from_its_state(split, size):
    columns = impressions(120)
    before, after = cut(columns, [split, 120 - split])
    whole = Window(size)
    whole.update(**before)
    state = {name: array.copy() for name, array in whole.state().items()}
    restored = Window.from_state(state)
    for window in (whole, restored):
        window.update(**after)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(restored.state()[name], array)
    np.testing.assert_equal(
        dataclasses.asdict(restored.metrics()), dataclasses.asdict(whole.metrics())
    )


def test_another_size_keeps_the_newest():
    columns = impressions(50)
    window = Window(40)
    window.update(**columns)
    smaller = Window.from_state(window.state(), size=10)
    np.testing.assert_array_equal(smaller.columns()["event_time"], columns["event_time"][-10:])
    assert smaller.seen == 50
    larger = Window.from_state(window.state(), size=60)
    larger.update(**impressions(30, seed=1))
    assert len(larger) == 60


def test_empty_window_is_undefined():
    got = Window(10).metrics()
    assert math.isnan(got.gauc)
    assert math.isnan(got.ctr)
    assert got.impressions == 0


def test_a_row_of_unknown_truth_leaves_no_ceiling():
    columns = impressions(100)
    window = Window(100)
    window.update(**columns)
    assert not math.isnan(window.metrics().gauc_ceiling)
    columns.pop("truth")
    window.update(**{name: column[:1] for name, column in columns.items()})
    assert math.isnan(window.metrics().gauc_ceiling)


def test_refuses_what_it_cannot_hold():
    columns = impressions(3)
    with pytest.raises(ValueError, match="click has shape"):
        Window(10).update(**{**columns, "click": np.zeros(2)})
    with pytest.raises(ValueError, match="NaN"):
        Window(10).update(**{**columns, "probability": np.array([0.1, math.nan, 0.2])})
    with pytest.raises(ValueError, match="holds nothing"):
        Window(0)
