import math

import numpy as np

from monitoring.hand_downs import Effect, HandDowns, mean_gain
from monitoring.series import Rows, SeriesBuilder

DAY = 86_400_000


def rows(time, user, click, probability):
    return Rows(
        np.array(time, np.int64),
        np.array(user, np.int64),
        np.array(click, np.int8),
        np.array(probability, np.float32),
        np.full(len(time), np.nan),
    )


def series():
    """Wrong about user 1 on day 10, right from day 11 on, without a valid user on day 12."""
    built = SeriesBuilder(DAY, 3 * DAY)
    ten, eleven, twelve = 10 * DAY, 11 * DAY, 12 * DAY
    built.update(rows([ten, ten + 5], [1, 1], [1, 0], [0.1, 0.9]))
    built.update(rows([eleven, twelve - 1], [1, 1], [1, 0], [0.9, 0.1]))
    built.update(rows([twelve], [1], [1], [0.9]))
    return built


def test_gauc_between_two_times_takes_the_first_and_not_the_last():
    built = series()
    assert built.between(10 * DAY, 11 * DAY) == 0.0
    assert built.between(11 * DAY, 12 * DAY) == 1.0
    assert math.isnan(built.between(10 * DAY, 10 * DAY + 5))  # the click alone
    assert math.isnan(built.between(12 * DAY, 13 * DAY))
    assert math.isnan(built.between(50 * DAY, 51 * DAY))


def test_before_and_after_are_as_long_as_until_the_next_hand_down():
    noted = HandDowns()
    for boundary in (0, 11 * DAY, 11 * DAY, 12 * DAY):
        noted.note(boundary)
    known, pending = noted.effects(series().between)
    assert known == Effect(11 * DAY, 0.0, 1.0)
    assert pending.boundary == 12 * DAY and math.isnan(pending.after)
    assert mean_gain((known, pending)) == (1.0, 1)


def test_an_effect_that_is_known_is_not_measured_again():
    asked = []

    def between(begin, end):
        asked.append((begin, end))
        return 0.5

    noted = HandDowns()
    for day in (1, 2, 3, 4, 5):
        noted.note(day * DAY)
    noted.effects(between)
    asked.clear()
    noted.effects(between)
    assert asked == [(d * DAY, (d + 1) * DAY) for d in (2, 3, 3, 4)]  # not around days 1 and 2


def test_only_the_newest_are_kept_and_no_gain_is_undefined():
    noted = HandDowns(most=2)
    for day in (1, 2, 3):
        noted.note(day * DAY)
    assert [e.boundary for e in noted.effects(lambda a, b: 0.5)] == [2 * DAY, 3 * DAY]
    assert math.isnan(mean_gain(())[0])


def test_before_the_first_hand_down_there_is_nothing_to_tell():
    noted = HandDowns()
    noted.note(0)
    assert noted.effects(lambda a, b: 0.5) == ()
