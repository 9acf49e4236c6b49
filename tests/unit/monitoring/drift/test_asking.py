"""Which alarm asks for what, and how often."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.drift.asking import Policy, Verdict
from monitoring.drift.settings import HOUR_MS, DriftConfig, EarlyConfig
from monitoring.drift.watch import Alarm
from streaming.control import ASKS

DAY = 24 * HOUR_MS
BEGIN = 20_000 * DAY


def config(closes_loop=True, **early):
    return DriftConfig(closes_loop=closes_loop, early=EarlyConfig(**early))


def alarm(hours, signal="log_loss", domain="natural", detector="page_hinkley"):
    return Alarm(BEGIN + round(hours * HOUR_MS), domain, signal, detector, 7.0)


def verdicts(policy, *alarms):
    """Of the first thing that is asked for; both are decided alike where the budget allows."""
    return [policy.decide(a)[0].verdict for a in alarms]


def test_an_alarm_asks_for_a_period_and_a_hand_down():
    decisions = Policy(config()).decide(alarm(6))
    assert [d.verdict for d in decisions] == [Verdict.ASKED] * 2
    assert [d.request.ask for d in decisions] == list(ASKS)
    assert {d.request.at for d in decisions} == {BEGIN + 6 * HOUR_MS}
    assert "log_loss of natural impressions" in decisions[0].words and "asked" in decisions[0].words


@pytest.mark.parametrize(
    ("signal", "domain"), [("calibration", "natural"), ("log_loss", "ad"), ("ctr", "ad")]
)
def test_what_an_early_refresh_does_not_mend_asks_for_none(signal, domain):
    policy = Policy(config())
    assert verdicts(policy, alarm(0, signal, domain)) == [Verdict.NO_USE]
    assert verdicts(policy, alarm(1)) == [Verdict.ASKED], "and costs nothing"


def test_off_by_default_and_then_nothing_is_spent():
    assert not DriftConfig().closes_loop
    policy = Policy(config(closes_loop=False))
    assert verdicts(policy, alarm(0), alarm(100)) == [Verdict.OFF] * 2
    assert policy.state() == {"asked": []}


def test_it_cools_down_from_what_was_asked_for_not_from_what_was_not():
    policy = Policy(config(cool_down_hours=10, budget_a_day=100))
    hours = (0, 9.9, 10, 19, 20)
    asked, cooling = Verdict.ASKED, Verdict.COOLING_DOWN
    assert verdicts(policy, *map(alarm, hours)) == [asked, cooling, asked, cooling, asked]


def test_the_budget_is_of_any_day_of_event_time():
    policy = Policy(config(cool_down_hours=0, budget_a_day=4))
    found = [[d.verdict for d in policy.decide(alarm(h))] for h in (0, 5, 23.9, 24, 28, 29)]
    asked, over = [Verdict.ASKED] * 2, [Verdict.OVER_BUDGET] * 2
    assert found == [asked, asked, over, asked, over, asked]


def test_the_budget_may_do_for_one_of_the_two_and_the_cool_down_is_each_ones_own():
    policy = Policy(config(cool_down_hours=48, budget_a_day=1))
    found = [[d.verdict for d in policy.decide(alarm(h))] for h in (0, 24, 48)]
    asked, over, cooling = Verdict.ASKED, Verdict.OVER_BUDGET, Verdict.COOLING_DOWN
    assert found == [[asked, over], [cooling, asked], [asked, cooling]]


def test_a_budget_of_nothing_asks_for_nothing():
    assert verdicts(Policy(config(budget_a_day=0)), alarm(0)) == [Verdict.OVER_BUDGET]


def test_detectors_that_alarm_together_ask_once():
    policy = Policy(config())
    together = [alarm(0, detector=name) for name in ("adwin", "page_hinkley")]
    assert verdicts(policy, *together) == [Verdict.ASKED, Verdict.COOLING_DOWN]
    ids = {policy.decide(a)[0].request.id for a in together}
    assert len(ids) == 1


STREAMS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from(["log_loss", "ctr"])), max_size=40
).map(lambda found: [alarm(6 * step, signal) for step, signal in sorted(found)])
SETTINGS = st.builds(
    lambda cool, budget: config(cool_down_hours=cool, budget_a_day=budget),
    st.integers(0, 60),
    st.integers(0, 5),
)


@given(SETTINGS, STREAMS)
def test_never_more_than_the_budget_nor_before_the_cool_down(settings, alarms):
    policy = Policy(settings)
    decisions = [d for a in alarms for d in policy.decide(a)]
    asked = [d.request for d in decisions if d.verdict is Verdict.ASKED]
    assert all(r.signal == "log_loss" for r in asked)
    for request in asked:
        day = [r for r in asked if request.at <= r.at < request.at + DAY]
        assert len(day) <= settings.early.budget_a_day
        cooled = request.at + settings.early.cool_down_hours * HOUR_MS
        assert not [r for r in asked if r.ask == request.ask and request.at < r.at < cooled]
    spent = {r.at // DAY for r in asked}
    for decision in decisions:  # and nothing is kept back that was affordable
        if decision.verdict is Verdict.OVER_BUDGET and settings.early.budget_a_day:
            assert spent & {decision.request.at // DAY - 1, decision.request.at // DAY}


@given(SETTINGS, STREAMS, st.integers(0, 40))
def test_going_on_from_a_state_decides_the_same(settings, alarms, cut):
    whole, first, second = (Policy(settings) for _ in range(3))
    expected = [whole.decide(a) for a in alarms]
    found = [first.decide(a) for a in alarms[:cut]]
    second.from_state(json.loads(json.dumps(first.state())))
    assert found + [second.decide(a) for a in alarms[cut:]] == expected
    assert json.dumps(second.state()) == json.dumps(whole.state())
