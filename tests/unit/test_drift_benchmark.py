import xml.etree.ElementTree as ET

import numpy as np
import pytest

from benchmarks import drift_score
from benchmarks.drift_market import DAYS, DRIFT_DAY, SCENARIOS, Recording
from benchmarks.drift_score import HORIZON, chosen, cried, grid, score
from monitoring.drift.settings import DriftConfig, PageHinkleyConfig
from monitoring.drift.signals import SIGNALS, sums_by_step
from monitoring.drift.watch import DOMAINS
from trainers.replay.svg import trade_off


def run(still, drifting, signal="ctr"):
    """A seed's alarms: these days of the market without drift, and of every one with."""
    silent = dict.fromkeys(SIGNALS, ())
    return {
        f"{domain}/{scenario}": {**silent, signal: still if scenario == "none" else drifting}
        for domain in DOMAINS
        for scenario in SCENARIOS
    }


def test_alarms_before_the_drift_are_false_and_delays_begin_with_it():
    runs = [
        run([5.0, DRIFT_DAY + 1.0], [5.0, DRIFT_DAY + 2.5, DRIFT_DAY + 3.0]),
        run([], [DRIFT_DAY - 0.25]),
    ]
    found = score("ad", runs, ("ctr", "score"))
    assert found.before == pytest.approx(0.5 / DRIFT_DAY)
    assert found.week == pytest.approx(1 / DAYS * 7)
    assert found.delays["sudden"] == [2.5, HORIZON]
    assert found.delay == pytest.approx((2.5 + HORIZON) / 2)
    assert score("ad", runs, ("score",)).delays["gradual"] == [HORIZON] * 2


def test_an_alarm_that_comes_without_a_drift_too_tells_nothing():
    seed = run([DRIFT_DAY + 3.0], [DRIFT_DAY + 2.5, DRIFT_DAY + 6.0])
    assert score("ad", [seed], ("ctr",)).delays["sudden"] == [6.0]
    assert score("ad", [seed], ("ctr",)).chance == [3.0]


def test_always_and_never_are_the_two_ends():
    per_day = 24 // DriftConfig().step_hours
    every = [(step + 1) / per_day for step in range(DAYS * per_day)]
    always, never = (score("ad", cried(days, 2), SIGNALS[:1], paired=False) for days in (every, []))
    assert always.before == per_day and always.delay == 1 / per_day
    assert never.before == 0 and never.delays["sudden"] == [HORIZON] * 2


def test_the_soonest_of_those_quiet_enough_is_chosen():
    names = [name for name in grid() if name.startswith("page_hinkley")]
    loud = [float(day) for day in range(1, DRIFT_DAY)]
    seed = {name: run([], [DRIFT_DAY + 9.0]) for name in grid()}
    seed[names[0]] = run(loud, [DRIFT_DAY + 1.0])
    seed[names[1]] = run([3.0], [DRIFT_DAY + 2.0], "score")
    assert chosen("page_hinkley", [seed]) == (names[1], ("score",))
    everywhere = {key: dict.fromkeys(SIGNALS, loud) for key in run([], [])}
    assert chosen("adwin", [dict.fromkeys(grid(), everywhere)]) is None


def test_what_scenarios_share_is_watched_once_and_alike():
    def recording(after):
        levels = [0.1] * 4 * DRIFT_DAY + [after] * 4 * (DAYS - DRIFT_DAY)
        sums = {}
        for step, level in enumerate(levels):
            click = [int(i < 1_000 * level) for i in range(1_000)]
            time, probability = [step * 6] * 1_000, [0.1] * 1_000
            sums |= sums_by_step(*(np.array(x) for x in (time, click, probability)), 1)
        return Recording(sums)

    config = DriftConfig(page_hinkley=PageHinkleyConfig(signals=SIGNALS))
    found = drift_score._watched({"none": recording(0.1), "sudden": recording(0.3)}, "ad", config)
    assert found["none"]["ctr"] == []
    assert DRIFT_DAY < found["sudden"]["ctr"][0] < DRIFT_DAY + 2
    assert found["sudden"]["score"] == []


def test_the_trade_off_is_a_picture_by_itself():
    picture = ET.fromstring(trade_off({"a": [(0.1, 3), (2, 1)], "b": [(0, 14)]}, "x", "y"))
    assert len(picture.findall("{http://www.w3.org/2000/svg}circle")) == 3
