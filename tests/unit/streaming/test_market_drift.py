import hashlib
from typing import get_args

import numpy as np
import pytest

from streaming.market import Market
from streaming.market_config import PRESETS, MarketConfig
from streaming.market_drift import BOT_SHARE, BOTS, Scenario

SCENARIOS = [name for name in get_args(Scenario) if name != "none"]
FINGERPRINTS = {
    "demo": "9058eddf9dcdd281",
    "standard": "d8aaf2d587af62d9",
    "conflict": "6155e598dd92213b",
    "large": "9e5e5aade0d02f6e",
}
SIXTH_DAY = "6dcaca15572e4eb2ca373f9e3b7a0546056b77e4773fc176bab6903cd3466991"


def config(**more):
    small = {"users": 200, "items": 100, "advertised": 30, "days": 12, "natural_per_day": 4_000}
    return MarketConfig(**{**small, "ads_per_day": 250, **more})


def day(number, **more):
    return next(Market(config(**more)).days(number, number + 1))


def digest(slot):
    rows = b"".join(str(part.to_pydict()).encode() for part in (slot.natural, slot.ad))
    return hashlib.sha256(rows).hexdigest()


def column(slot, name, domain="natural"):
    return np.asarray(getattr(slot, domain).column(name))


def differing(left, right):
    names = left.natural.schema.names
    return {n for n in names if not left.natural.column(n).equals(right.natural.column(n))}


def test_markets_without_drift_are_what_they_were():
    assert {p: MarketConfig(preset=p).fingerprint for p in PRESETS} == FINGERPRINTS
    assert digest(day(5)) == SIXTH_DAY
    assert config(drift_day=3).fingerprint == config().fingerprint


@pytest.mark.parametrize("drift", SCENARIOS)
def test_a_scenario_begins_on_its_day_and_not_before(drift):
    assert digest(day(5, drift=drift, drift_day=6)) == SIXTH_DAY
    assert digest(day(5, drift=drift, drift_day=4)) != SIXTH_DAY
    assert config(drift=drift).fingerprint != config().fingerprint
    assert config(drift=drift, drift_day=3).fingerprint != config(drift=drift).fingerprint


def test_a_broken_feature_is_constant_and_everything_else_as_it_was():
    plain, broken = day(5), day(5, drift="broken-feature", drift_day=5)
    assert set(column(broken, "segment")) == {0}
    assert differing(plain, broken) == {"segment"}


def test_in_a_label_outage_clicks_arrive_as_none():
    plain, dark = day(5), day(5, drift="label-outage", drift_day=5)
    assert column(plain, "click").any() and not column(dark, "click").any()
    assert differing(plain, dark) == {"click"}
    assert np.array_equal(dark.natural_probability, plain.natural_probability)


def test_bots_are_few_with_many_impressions_and_clicks_at_random():
    plain, flood = day(5), day(5, drift="bot-flood", drift_day=5)
    assert len(flood.natural) == len(plain.natural)
    users, rows = np.unique(column(flood, "user_id"), return_counts=True)
    bots = users[np.argsort(rows)[-BOTS:]]
    of_bot = np.isin(column(flood, "user_id"), bots)
    assert of_bot.mean() == pytest.approx(BOT_SHARE, abs=0.03)
    assert column(flood, "click")[of_bot].mean() == pytest.approx(0.5, abs=0.06)
    # The accounts' owners go on beside the bots.
    assert np.isclose(flood.natural_probability[of_bot], 0.5).mean() > 0.9
    assert np.array_equal(column(flood, "item_id"), column(plain, "item_id"))


def likeness(on, **more):
    """Correlation of log-odds with the market's that does not drift, on day ``on``."""
    slots = day(on), day(on, **more)
    pair = (np.log(s.natural_probability / (1 - s.natural_probability)) for s in slots)
    return np.corrcoef(*pair)[0, 1]


def test_interests_are_replaced_at_once_or_over_days():
    sudden = [likeness(on, drift="sudden", drift_day=5) for on in (4, 5, 9)]
    gradual = [likeness(on, drift="gradual", drift_day=5) for on in (4, 6, 9)]
    assert sudden[0] == gradual[0] == pytest.approx(1)
    assert sudden[1] < 0.9 and sudden[2] == pytest.approx(sudden[1], abs=0.1)
    assert 1 > gradual[1] > gradual[2] + 0.02 > sudden[2]


def test_a_greater_season_is_the_same_season():
    def spread(**more):
        p = day(9, **more).natural_probability
        return np.log(p / (1 - p)).std()

    assert spread(drift="seasonal", drift_day=5) > 1.2 * spread()
    assert likeness(9, drift="seasonal", drift_day=5) > 0.75
