import math

import numpy as np
import pyarrow as pa
import pytest

from monitoring.drift.features import DAY_MS
from monitoring.drift.settings import DriftConfig, PageHinkleyConfig
from monitoring.drift.watch import DriftWatch, SignalWatch
from streaming.impressions import ImpressionSchema
from streaming.market import Market
from streaming.market_config import MarketConfig

SCHEMA = ImpressionSchema()
WATCHING = DriftConfig(
    step_hours=12,
    warm_up_days=4,
    min_impressions=50,
    min_compared=300,
    seen_bits=14,
    page_hinkley=PageHinkleyConfig(signals=("ctr", "calibration"), threshold=12),
)
HALF_DAY = DAY_MS // 2


def market(drift, days=24, drift_day=16):
    small = {"users": 100, "items": 60, "advertised": 20, "season_share": 0, "drift_share": 0}
    return Market(
        MarketConfig(
            **small, days=days, natural_per_day=2_000, ads_per_day=400, item_lifetime_days=0,
            user_lifetime_days=0, drift=drift, drift_day=drift_day,
        )
    )  # fmt: skip


def updates(drift="none", **more):
    """(domain, rows, truth) of every day; the truth stands for a model without a fault."""
    for slot in market(drift, **more).days():
        yield "natural", slot.natural, slot.natural_probability
        yield "ad", slot.ad, slot.ad_probability


def feed(watch, domain, rows, probability, parts=1):
    for index in np.array_split(np.arange(len(rows)), parts):
        part = rows.take(pa.array(index))
        time, click = (part.column(n).to_numpy() for n in ("event_time", "click"))
        watch.update_predictions(domain, time, click, probability[index])
        watch.update_impressions(domain, part)
    day = rows.column("event_time")[0].as_py() // DAY_MS
    return watch.advance(domain, (day + 1) * DAY_MS)


def run(watch, some):
    return [alarm for one in some for alarm in feed(watch, *one)]


def test_a_label_outage_is_told_soon_and_a_still_market_is_none():
    assert run(DriftWatch(WATCHING, SCHEMA), updates()) == []
    watch = DriftWatch(WATCHING, SCHEMA)
    alarms = run(watch, updates("label-outage"))
    began = market("none").config.start_ms + 16 * DAY_MS
    first = {(a.domain, a.signal): a for a in reversed(alarms)}
    assert {("natural", "ctr"), ("natural", "calibration")} <= set(first)
    for alarm in first.values():
        assert alarm.detector == "page_hinkley" and alarm.statistic > 12
        assert began < alarm.event_time <= began + 3 * DAY_MS
    assert watch.alarms() == alarms


def test_a_broken_feature_shows_in_its_distances_only():
    watch = DriftWatch(WATCHING, SCHEMA)
    run(watch, updates("broken-feature", days=18))
    for domain in ("natural", "ad"):
        found = watch.figures().features[domain]
        assert found.psi["segment"] > 1 and found.js["segment"] > 0.5
        assert found.psi["position"] < 0.1 and found.js["score"] < 0.2


def test_of_few_impressions_no_distance_is_told():
    few = WATCHING.model_copy(update={"min_compared": 450})  # ads are 400 a day
    watch = DriftWatch(few, SCHEMA)
    run(watch, updates(days=4))
    found = watch.figures()
    natural, ad = (found.features[domain] for domain in ("natural", "ad"))
    assert math.isnan(ad.psi["segment"]) and math.isnan(ad.js["segment"])
    assert natural.psi["segment"] < 0.1 and math.isnan(found.domain_js["segment"])
    assert not math.isnan(ad.unseen["user_id"])


def test_after_an_alarm_the_signal_begins_anew():
    watch = SignalWatch("ad", "ctr", WATCHING)
    values = [0.1, 0.11, 0.09, 0.1] * 10 + [0.5] * 40
    alarms = [step for step, value in enumerate(values) if watch.update(step, value)]
    assert len(alarms) == 1 and 40 < alarms[0] < 45

    watch = SignalWatch("ad", "ctr", WATCHING)
    for step, value in enumerate(values[: alarms[0] + 1 + 8]):
        watch.update(step, value)  # two steps a day: four days are no baseline yet
    assert math.isnan(watch.statistics()["page_hinkley"])
    watch.update(alarms[0] + 9, 0.5)
    assert watch.statistics()["page_hinkley"] < 1


@pytest.mark.parametrize("cut", [1, 7, 31, 34, 40])
def test_a_restart_changes_nothing(cut):
    some = list(updates("label-outage"))
    whole, first = DriftWatch(WATCHING, SCHEMA), DriftWatch(WATCHING, SCHEMA)
    run(whole, some[:cut])
    run(first, some[:cut])
    for watch in (whole, first):  # half a day that is not complete yet
        feed_part(watch, *some[cut])
    state = first.state()
    assert all(not array.dtype.hasobject for array in state.values())
    second = DriftWatch.from_state(WATCHING, SCHEMA, state)
    for watch in (whole, second):
        feed_part(watch, *some[cut], second=True)
    assert run(whole, some[cut + 1 :]) == run(second, some[cut + 1 :])
    assert whole.alarms() == second.alarms()
    np.testing.assert_equal(whole.figures(), second.figures())
    np.testing.assert_equal(whole.state(), second.state())


def feed_part(watch, domain, rows, probability, second=False):
    half = len(rows) // 2
    kept = slice(half, None) if second else slice(0, half)
    part, p = rows.slice(half) if second else rows.slice(0, half), probability[kept]
    time, click = (part.column(n).to_numpy() for n in ("event_time", "click"))
    watch.update_predictions(domain, time, click, p)
    watch.update_impressions(domain, part)


def test_batches_make_no_difference():
    some = list(updates(days=10))
    whole, cut = DriftWatch(WATCHING, SCHEMA), DriftWatch(WATCHING, SCHEMA)
    for domain, rows, p in some:
        feed(whole, domain, rows, p)
        feed(cut, domain, rows, p, parts=7)
    left, right = whole.figures(), cut.figures()
    assert left.features == right.features and left.domain_js == right.domain_js
    assert left.signals == pytest.approx(right.signals)


def test_nothing_seen_has_no_figures_and_silence_is_no_alarm():
    watch = DriftWatch(WATCHING, SCHEMA)
    assert watch.advance("ad", 10 * DAY_MS) == []
    assert all(math.isnan(x) for x in watch.figures().signals.values())
    assert watch.figures().domain_js == {} and watch.figures().features["ad"].psi == {}
    run(watch, updates(days=8))
    last = market("none").config.start_ms + 8 * DAY_MS
    assert watch.advance("ad", last + 10_000 * DAY_MS) == []
    assert math.isnan(watch.figures().signals["ad", "ctr"])
    assert watch.figures().features["ad"].psi == {}


def test_a_first_day_has_no_reference():
    watch = DriftWatch(WATCHING, SCHEMA)
    run(watch, updates(days=1))
    found = watch.figures()
    assert math.isnan(found.features["ad"].psi["segment"])
    assert math.isnan(found.features["natural"].js["score"])
    assert 0 < found.features["ad"].unseen["user_id"] <= 1
    assert math.isnan(found.features["natural"].unseen["creative_id"])
    assert 0 < found.domain_js["item_id"] < 1 and found.domain_js["creative_id"] == 1


def test_what_comes_after_its_step_is_counted_and_left_out():
    watch = DriftWatch(WATCHING, SCHEMA)
    some = list(updates(days=3))
    run(watch, some)
    before = watch.figures()
    domain, rows, probability = some[1]
    feed(watch, domain, rows, probability)
    assert watch.late == {"natural": 0, "ad": 3 * 400}  # predictions, their scores, impressions
    np.testing.assert_equal(watch.figures(), before)


def test_other_settings_begin_anew_what_does_not_fit():
    watch = DriftWatch(WATCHING, SCHEMA)
    run(watch, updates(days=8))
    other = WATCHING.model_copy(update={"step_hours": 6, "hash_buckets": 16, "seen_bits": 15})
    again = DriftWatch.from_state(other, SCHEMA, watch.state())
    assert math.isnan(again.figures().signals["ad", "ctr"])
    assert "segment" not in again.figures().features["ad"].psi
    assert (
        again.figures().features["ad"].psi["score"] == watch.figures().features["ad"].psi["score"]
    )


def test_a_day_is_compared_with_the_last_days_only():
    config = WATCHING.model_copy(update={"reference_days": 3})
    watch = DriftWatch(config, SCHEMA)
    run(watch, updates("broken-feature", days=20))
    assert watch.figures().features["ad"].psi["segment"] == pytest.approx(0)
