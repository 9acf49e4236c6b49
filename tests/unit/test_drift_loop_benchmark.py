"""What the loop's benchmark computes besides what the levels do."""

import itertools

import numpy as np
import pytest

from benchmarks.drift_loop import Played, boundaries, expected_gauc, looped, rows
from monitoring.drift.settings import HOUR_MS
from streaming.control import ASKS, Request


def asked(*hours):
    return [Request(ask, h * HOUR_MS, "natural", "log_loss") for h in hours for ask in ASKS]


def test_expected_gauc_is_that_of_every_way_in_which_clicks_may_fall():
    truth_N, score_N = np.array([0.2, 0.7, 0.4, 0.9]), np.array([0.1, 0.3, 0.3, 0.2])
    above = total = 0.0
    for i, j in itertools.permutations(range(4), 2):
        weight = truth_N[i] * (1 - truth_N[j])
        total += weight
        above += weight * ((score_N[i] > score_N[j]) + 0.5 * (score_N[i] == score_N[j]))
    one = np.zeros(4, int)
    assert expected_gauc(one, truth_N, score_N) == pytest.approx(above / total)


def test_expected_gauc_weighs_users_by_impressions_and_leaves_out_those_with_one():
    user_N = np.array([7, 1, 7, 1, 7, 3])
    truth_N, score_N = np.array([0.9, 0.9, 0.1, 0.1, 0.5, 0.5]), np.array([3, 1, 1, 2, 2, 9])
    alone = [expected_gauc(user_N[m], truth_N[m], score_N[m]) for m in (user_N == 1, user_N == 7)]
    assert alone[0] < 0.5 < alone[1]
    expected = (2 * alone[0] + 3 * alone[1]) / 5
    assert expected_gauc(user_N, truth_N, score_N) == pytest.approx(expected)


def test_a_request_is_obeyed_at_the_end_of_the_hour_after_it():
    requests = [*asked(6), Request("period", 7 * HOUR_MS + 5, "natural", "log_loss")]
    assert boundaries(requests, "period") == [7 * HOUR_MS, 8 * HOUR_MS]
    assert boundaries(requests, "hand-down") == [7 * HOUR_MS]


class Watched:
    def __init__(self, requests):
        self.requests = requests


class Levels:
    """Whose CPM alarms as it is told to, by how many hand-downs it has been given early."""

    def __init__(self, *requests):
        self.passes, self.given = requests, []

    def above(self, variant, early):
        self.given.append(list(early))
        return f"pass {len(self.given)}", Watched(self.passes[len(self.given)])


def test_alarms_are_obeyed_one_by_one_until_none_is_new():
    # What came after the first early boundary comes elsewhere now that there is one.
    levels = Levels(asked(6, 90), asked(6, 100), asked(6, 100))
    upstream, early = looped(levels, "pass 0", Watched(levels.passes[0]))
    assert levels.given == [asked(6), asked(6, 100)]
    assert (upstream, early) == ("pass 2", asked(6, 100))


def test_without_an_alarm_nothing_is_done_again():
    levels = Levels([])
    assert looped(levels, "pass 0", Watched([])) == ("pass 0", [])
    assert levels.given == []


def test_the_table_tells_means_and_differences_from_the_schedule():
    windows = dict.fromkeys(
        [f"{a} to {b}" for a, b in [(-7, 0), (0, 2), (2, 4), (4, 7), (7, 10), (0, 10)]]
        + [f"{day} to {day + 1}" for day in range(-1, 10)]
    )
    played = [
        Played(
            21,
            [[1.5, "log_loss"]],
            [[1.5, "period"], [1.5, "hand-down"]],
            [[0.5, 3.0], [8.0, 9.0]],
            {"schedule": dict.fromkeys(windows, 0.6), "loop": dict.fromkeys(windows, g)},
        )
        for g in (0.61, 0.63)
    ]
    found = dict(rows(played))
    assert found["days 2 to 4"].startswith("schedule 0.6000, loop 0.6200 (+0.0200, ")
    assert found["early hand-downs, days since the drift"] == "[[1.5], [1.5]]"
    assert found["greatest statistic in the week after"] == "3.0 3.0"
