import numpy as np
import pyarrow as pa
import pytest

from errors import UserError
from streaming.impressions import ImpressionSchema
from streaming.market import DAY_MS, Market
from streaming.market_config import MarketConfig, adjusted
from streaming.market_population import Items, Seats, Users
from streaming.market_random import normals, spread63, uniforms, zipf_ranks
from streaming.market_recent import RecentItems
from streaming.truth import Truth, write_truth

GOLDEN = {
    "impression_id": 118,
    "event_time": 1735691682900,
    "user_id": 6065581186971868807,
    "item_id": 4479987100834720650,
    "creative_id": 6914907345290499006,
}


def config(**more):
    small = {"users": 200, "items": 100, "advertised": 30, "days": 12, "natural_per_day": 4_000}
    return MarketConfig(**{**small, "ads_per_day": 250, **more})


def column(slots, domain, name):
    return np.concatenate([getattr(s, domain).column(name).to_numpy(False) for s in slots])


def same(left, right):
    assert left.index == right.index
    assert left.natural.equals(right.natural) and left.ad.equals(right.ad)
    assert np.array_equal(left.natural_probability, right.natural_probability)
    assert np.array_equal(left.ad_probability, right.ad_probability)


@pytest.mark.parametrize("slots_per_day", [1, 4])
def test_a_slot_is_the_same_whatever_was_asked_for_before(slots_per_day):
    whole = list(Market(config(slots_per_day=slots_per_day)).days())
    middle = list(Market(config(slots_per_day=slots_per_day, days=11)).days(9, 11))
    assert len(middle) == 2 * slots_per_day
    for slot in middle:
        same(slot, whole[slot.index])


def test_another_seed_is_another_market():
    one, two = (next(Market(config(seed=seed)).days()) for seed in (1, 2))
    assert not one.natural.column("event_time").equals(two.natural.column("event_time"))
    assert not set(column([one], "natural", "item_id")) & set(column([two], "natural", "item_id"))


def test_a_golden_impression():
    """Fails when the generator changes: then raise market_config.GENERATION."""
    slot = next(Market(config()).days())
    row = slot.ad.slice(3, 1).to_pylist()[0]
    assert {name: row[name] for name in GOLDEN} == GOLDEN
    assert sum(slot.natural.column("click").to_pylist()) == 489


def test_rows_are_in_the_default_schema_and_tell_no_probability():
    slot = next(Market(config()).days())
    for rows in (slot.natural, slot.ad):
        rows.validate(full=True)
        assert rows.schema == ImpressionSchema().arrow
    assert slot.natural.column("creative_id").null_count == len(slot.natural)
    assert slot.ad.column("creative_id").null_count == 0


def test_ids_rise_with_event_time_over_both_domains():
    slots = list(Market(config(slots_per_day=2)).days(0, 3))
    time = np.concatenate([column(slots, d, "event_time") for d in ("natural", "ad")])
    ids = np.concatenate([column(slots, d, "impression_id") for d in ("natural", "ad")])
    assert len(np.unique(ids)) == len(ids)
    assert (np.diff(time[np.argsort(ids)]) >= 0).all()
    start = config().start_ms
    assert time.min() >= start and time.max() < start + 3 * DAY_MS
    for slot in slots:
        assert (np.diff(column([slot], "ad", "event_time")) >= 0).all()


def test_ratio_and_click_rates():
    slots = list(Market(MarketConfig(preset="standard", days=40)).days())
    natural, ad = (column(slots, d, "click") for d in ("natural", "ad"))
    assert len(natural) == 40 * 15_000 and len(ad) == 40 * 1_000
    assert natural.mean() == pytest.approx(0.10, abs=0.01)
    assert ad.mean() == pytest.approx(0.03, abs=0.005)
    truth = np.concatenate([s.ad_probability for s in slots])
    assert ad.mean() == pytest.approx(truth.mean(), abs=0.003)


def test_clicks_follow_the_true_probability():
    slots = list(Market(config()).days())
    click = column(slots, "natural", "click")
    truth = np.concatenate([s.natural_probability for s in slots])
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 1)):
        of_bin = (truth >= low) & (truth < high)
        assert click[of_bin].mean() == pytest.approx(truth[of_bin].mean(), rel=0.1)


def test_interests_return_with_the_season():
    users = Users(config(season_days=40))
    serial = np.arange(500, dtype=np.uint64)

    def likeness(day):
        now, then = (users.interests("natural", serial, d) for d in (10, 10 + day))
        return np.corrcoef(now.ravel(), then.ravel())[0, 1]

    assert likeness(40) > likeness(20) + 0.3
    assert likeness(40) > 0.85
    assert likeness(4000) < likeness(40)  # drift does not come back


def test_domain_conflict_parts_the_interests():
    serial = np.arange(2_000, dtype=np.uint64)

    def likeness(conflict):
        users = Users(config(domain_conflict=conflict, segments=100))
        pair = (users.interests(d, serial, 5.0).ravel() for d in ("natural", "ad"))
        return np.corrcoef(*pair)[0, 1]

    assert likeness(0.0) == pytest.approx(1.0)
    assert likeness(0.5) == pytest.approx(np.sqrt(0.5), abs=0.1)
    assert likeness(1.0) == pytest.approx(0.0, abs=0.15)


def test_every_part_of_an_interest_has_its_share_of_the_variance():
    users, items = Users(config(segments=2_000)), Items(config(categories=2_000))
    serial = np.arange(5_000, dtype=np.uint64)
    assert users.interests("natural", serial, 17.3).var() == pytest.approx(1, abs=0.05)
    assert items.vectors(serial).var() == pytest.approx(1, abs=0.05)


def test_who_has_left_does_not_come_back():
    seats = Seats(0, "item", 50, 10)
    seat = np.arange(50)
    present = [set(seats.occupants(seat, day).serial.tolist()) for day in range(120)]
    days = {}
    for day, serials in enumerate(present):
        assert len(serials) == 50
        for serial in serials:
            days.setdefault(serial, []).append(day)
    assert len(days) > 400
    assert all(d == list(range(d[0], d[-1] + 1)) for d in days.values())


def test_new_users_items_and_creatives_arrive_with_ids_of_their_own():
    market = Market(config(user_lifetime_days=6, item_lifetime_days=6, creative_lifetime_days=2))
    slots = list(market.days())
    early, late = slots[:1], slots[-1:]
    for domain, name in (("natural", "user_id"), ("natural", "item_id"), ("ad", "creative_id")):
        before, after = (set(column(s, domain, name)) for s in (early, late))
        assert len(after - before) > len(after) / 2, name
    creatives, items = (column(slots, "ad", n) for n in ("creative_id", "item_id"))
    pairs = set(zip(creatives, items, strict=True))
    assert len(pairs) == len(set(creatives))  # a creative is of one item


def test_ads_are_a_subset_of_the_items():
    slots = list(Market(config(item_lifetime_days=0)).days())
    ad, natural = (set(column(slots, d, "item_id")) for d in ("ad", "natural"))
    assert len(ad) == 30 and ad < natural


def test_recent_items_are_the_users_last_clicks_before_the_slot():
    slots = list(Market(config(recent_days=3, user_lifetime_days=20)).days())
    clicks = {}
    for slot in slots:
        day = slot.index
        for rows in (slot.natural, slot.ad):
            for row in rows.select(["user_id", "recent_items"]).slice(0, 300).to_pylist():
                known = sorted(c for c in clicks.get(row["user_id"], []) if c[0] >= day - 3)
                assert row["recent_items"] == [item for *_, item in known[-5:]]
        both = pa.Table.from_batches([slot.natural, slot.ad]).sort_by("impression_id")
        names = ("impression_id", "user_id", "item_id", "click")
        for key, user, item, click in zip(*(both[n].to_pylist() for n in names), strict=True):
            if click:
                clicks.setdefault(user, []).append((day, key, item))
    assert len(clicks) > 100


def test_recent_items_of_a_predecessor_in_the_seat_are_not_shown():
    recent = RecentItems(2, 3, 7)
    recent.add(np.array([0, 0, 1, 0, 0]), np.array([1, 2, 9, 3, 4]), day=5)
    lists = recent.lists(np.array([0, 1, 0]), np.array([30, 0, 1]), day=6)
    assert lists.to_pylist() == [[2, 3, 4], [], [2, 3, 4]]
    assert recent.lists(np.array([0]), np.array([30]), day=13).to_pylist() == [[]]


def test_hashes_are_normal_uniform_and_one_to_one():
    ids, key = np.arange(100_000, dtype=np.uint64), np.uint64(7)
    drawn = normals(key, ids, 3)
    assert drawn.mean(axis=0) == pytest.approx([0, 0, 0], abs=0.02)
    assert np.cov(drawn.T) == pytest.approx(np.eye(3), abs=0.03)
    assert uniforms(key, ids).mean() == pytest.approx(0.5, abs=0.01)
    spread = spread63(ids, np.uint64(2**64 - 5))
    assert len(np.unique(spread)) == len(ids) and spread.min() >= 0
    assert np.median(spread) == pytest.approx(2**62, rel=0.05)


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 1.3])
def test_zipf_ranks(exponent):
    uniform = (np.arange(200_000) + 0.5) / 200_000
    ranks = zipf_ranks(uniform, 50, exponent)
    counts = np.bincount(ranks, minlength=50)
    assert len(counts) == 50 and counts.min() > 0 and (np.diff(counts) <= 1).all()
    assert counts[20] / counts[40] == pytest.approx((41.5 / 21.5) ** exponent, rel=0.02)


@pytest.mark.parametrize(("preset", "conflict"), [("standard", 0.0), ("conflict", 0.5)])
def test_the_markets_of_comparisons_are_fixed(preset, conflict):
    config = MarketConfig(preset=preset)
    assert (config.users, config.items, config.advertised, config.dim) == (1_000, 1_000, 200, 3)
    assert (config.natural_per_day, config.ads_per_day) == (15_000, 1_000)
    assert (config.days, config.season_days, config.domain_conflict) == (120, 60, conflict)


def test_a_preset_gives_way_to_what_is_said():
    assert MarketConfig(preset="standard").users == 1_000
    assert MarketConfig(preset="standard", users=7).users == 7
    loaded = MarketConfig(preset="standard", items=500)
    merged = adjusted(loaded, {"market.items": "a file"}, preset="conflict", days=None)
    assert (merged.items, merged.domain_conflict, merged.days) == (500, 0.5, 120)
    with pytest.raises(UserError, match="advertised = 200 is more than items = 50"):
        adjusted(loaded, {}, preset="standard", items=50)


def test_the_fingerprint_knows_everything_but_the_length():
    base = config()
    assert base.fingerprint == config(days=3).fingerprint
    assert base.fingerprint != config(seed=1).fingerprint
    assert base.fingerprint != config(quality=0.31).fingerprint


def test_truth_is_found_by_id_also_when_written_later(tmp_path):
    slots = list(Market(config()).days(0, 2))
    truth = Truth(tmp_path)
    ids = np.array(column(slots, "ad", "impression_id"))
    assert np.isnan(truth.lookup(ids)).all()
    write_truth(tmp_path, slots[0])
    found = truth.lookup(ids)
    first = len(slots[0].ad)
    assert np.array_equal(found[:first], slots[0].ad_probability)
    assert np.isnan(found[first:]).all()
    write_truth(tmp_path, slots[1])
    order = np.random.default_rng(0).permutation(len(ids))
    expected = np.concatenate([s.ad_probability for s in slots])
    assert np.array_equal(truth.lookup(ids[order]), expected[order])
    strangers = np.array([-1, 4_000 + 250, 2**62])
    assert np.isnan(truth.lookup(strangers)).all()
