import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring import metrics
from monitoring.series import Rows, SeriesBuilder

DAY = 86_400_000


def rows(n, days=10, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random(n)
    return Rows(
        event_time=rng.integers(0, days * DAY, n),
        user=rng.integers(0, 20, n),
        click=(rng.random(n) < truth).astype(np.int8),
        probability=np.clip(truth + rng.normal(0, 0.4, n), 0, 1).astype(np.float32),
        truth=truth,
    )


def test_each_point_looks_back_over_its_window():
    held = rows(2_000)
    builder = SeriesBuilder(DAY, 3 * DAY)
    builder.update(held)
    points = builder.points()
    assert [p.event_time for p in points] == [DAY * d for d in range(1, 11)]
    for point in points:
        inside = (held.event_time >= point.event_time - 3 * DAY) & (
            held.event_time < point.event_time
        )
        part = held.take(inside)
        assert point.impressions == inside.sum()
        assert point.model == metrics.gauc(part.user, part.click, part.probability).weighted
        assert point.ceiling == metrics.gauc(part.user, part.click, part.truth).weighted
        assert point.ceiling > point.model > 0.5


@settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 10))
def test_the_order_of_arrival_and_looking_early_change_nothing(random, pieces):
    held = rows(400)
    order = list(range(len(held)))
    random.shuffle(order)
    builder = SeriesBuilder(DAY, 2 * DAY)
    for piece in np.array_split(np.array(order), pieces):
        builder.update(held.take(piece))
        builder.points()
    whole = SeriesBuilder(DAY, 2 * DAY)
    whole.update(held)
    assert builder.points() == whole.points()


def test_memory_is_bounded_and_what_came_too_late_is_counted():
    held = rows(3_000, days=30)
    held = held.take(np.argsort(held.event_time))
    bounded, whole = SeriesBuilder(DAY, 2 * DAY, max_rows=500), SeriesBuilder(DAY, 2 * DAY)
    for piece in np.array_split(np.arange(len(held)), 50):
        bounded.update(held.take(piece))
        whole.update(held.take(piece))
    assert bounded.points() == whole.points()
    assert bounded._rows.held <= 500
    assert bounded.late == 0
    bounded.update(held.take(np.arange(10)))
    assert bounded.late == 10
    assert bounded.points() == whole.points()


def test_only_the_newest_points_are_kept():
    builder = SeriesBuilder(DAY, DAY, max_points=4)
    builder.update(rows(500))
    assert [p.event_time // DAY for p in builder.points()] == [7, 8, 9, 10]


def test_no_rows_no_points_and_unknown_truth_no_ceiling():
    builder = SeriesBuilder(DAY, DAY)
    assert builder.points() == []
    assert len(builder.latest()) == 0
    held = rows(300, days=1)
    held.truth[7] = np.nan
    builder.update(held)
    (point,) = builder.points()
    assert math.isnan(point.ceiling)
    assert not math.isnan(point.model)
    assert len(builder.latest()) == 300


def test_a_window_holds_at_least_a_step():
    with pytest.raises(ValueError, match="does not hold a step"):
        SeriesBuilder(DAY, DAY - 1)
