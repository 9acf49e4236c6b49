import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from monitoring.drift import sketches
from monitoring.drift.seen import SeenIds
from streaming.impressions import Feature

RNG = np.random.default_rng(0)


def test_psi_of_a_case_worked_by_hand():
    # p = (.5, .3, .2), q = (.4, .4, .2):
    # (-.1) ln(.8) + .1 ln(4/3) + 0 = .02231 + .02877
    assert sketches.psi(np.array([50, 30, 20]), np.array([400, 400, 200])) == pytest.approx(
        0.0510826, abs=1e-6
    )
    assert sketches.psi(np.array([5, 5]), np.array([500, 500])) == 0


def test_an_empty_bucket_counts_as_half_an_impression():
    # p = (.9, .1), q = (1, .005): .1 ln(1 / .9) + (-.095) ln(.05)
    expected = 0.1 * math.log(1 / 0.9) - 0.095 * math.log(0.05)
    assert sketches.psi(np.array([90, 10]), np.array([100, 0])) == pytest.approx(expected)


def test_psi_is_both_divergences_and_js_is_scipys():
    for _ in range(20):
        p, q = RNG.integers(1, 1000, (2, 30))
        assert sketches.psi(p, q) == pytest.approx(entropy(p, q) + entropy(q, p))
        q[:5] = 0
        assert sketches.js_distance(p, q) == pytest.approx(jensenshannon(p, q, base=2))
    assert sketches.js_distance(np.array([3, 0]), np.array([0, 9])) == 1


@pytest.mark.parametrize("distance", [sketches.psi, sketches.js_distance])
def test_nothing_to_compare_is_nan(distance):
    some, nothing = np.array([3, 4]), np.zeros(2, int)
    assert math.isnan(distance(some, nothing)) and math.isnan(distance(nothing, some))


def test_numeric_counts_of_parts_add_up_and_nan_is_missing():
    values = RNG.normal(0, 100, 5_000)
    values[:7] = np.nan
    whole = sketches.numeric_counts(values)
    parts = sum(sketches.numeric_counts(part) for part in np.array_split(values, 7))
    assert np.array_equal(whole, parts)
    assert whole.sum() == 5_000 and whole[-1] == 7
    assert sketches.numeric_counts(np.array([np.inf, -np.inf, 0.0])).sum() == 3


@pytest.mark.parametrize("draw", ["uniform", "lognormal", "beta"])
def test_groups_hold_about_a_tenth_of_the_reference(draw):
    values = {
        "uniform": RNG.random(50_000),
        "lognormal": RNG.lognormal(0, 3, 50_000),
        "beta": RNG.beta(2, 40, 50_000),
    }[draw]
    counts = sketches.numeric_counts(values)
    grouped = sketches.grouped(counts, sketches.quantile_groups(counts))
    assert grouped.sum() == 50_000
    assert (grouped[:-1] / 50_000 == pytest.approx(0.1, abs=0.035)) and grouped[-1] == 0


def test_a_shifted_number_is_seen_and_the_same_one_is_not():
    def distance(mean):
        reference, current = (
            sketches.numeric_counts(RNG.normal(m, 1, 20_000)) for m in (0.0, mean)
        )
        group = sketches.quantile_groups(reference)
        return sketches.psi(*(sketches.grouped(c, group) for c in (reference, current)))

    assert distance(0.0) < 0.01
    assert 0.15 < distance(0.5) < 0.35  # of normals, the square of the difference: 0.25


def test_hashed_counts_know_missing_values_and_add_up():
    ids = RNG.integers(0, 2**62, 10_000)
    counts = sketches.hashed_counts(ids, 64, missing=5)
    assert len(counts) == 65 and counts.sum() == 10_005 and counts[-1] == 5
    assert counts[:-1].min() > 80  # spread: 156 on average
    assert np.array_equal(
        counts[:-1], sum(sketches.hashed_counts(p, 64)[:-1] for p in (ids[:3], ids[3:]))
    )


def test_integers_of_single_and_list_columns():
    single = Feature(name="creative_id", kind="id", optional=True)
    values, missing = sketches.integers(single, pa.array([7, None, 9], pa.int64()))
    assert values.tolist() == [7, 9] and missing == 1
    multi = Feature(name="recent", kind="id", multi=True)
    lists = pa.array([[1, 2], [], None, [3]], pa.list_(pa.int64()))
    values, missing = sketches.integers(multi, lists)
    assert values.tolist() == [1, 2, 3] and missing == 2
    values, missing = sketches.integers(multi, lists.slice(2))
    assert values.tolist() == [3] and missing == 1


def test_ids_are_new_once_however_they_are_cut():
    ids = RNG.integers(0, 1_000, 5_000)
    whole, cut = SeenIds(16), SeenIds(16)
    assert whole.first_seen(ids) == len(np.unique(ids))
    assert sum(cut.first_seen(part) for part in np.array_split(ids, 9)) == len(np.unique(ids))
    assert whole.first_seen(ids) == 0
    assert whole.first_seen(np.empty(0, np.int64)) == 0


def test_ids_wrongly_known_stay_below_the_stated_error():
    seen = SeenIds(14)
    for _ in range(40):  # far more than it holds, so both filters are used
        seen.first_seen(RNG.integers(0, 2**62, 500))
        assert seen.error() <= 0.042
    strangers = RNG.integers(0, 2**62, 20_000)
    wrong = seen.known(strangers).mean()
    assert wrong <= 0.042 and wrong == pytest.approx(seen.error(), abs=0.005)


def test_the_last_ids_are_always_known():
    seen = SeenIds(14)
    capacity = int(0.11 * 2**14)
    for _ in range(30):
        ids = RNG.integers(0, 2**62, capacity // 4)
        seen.first_seen(ids)
        assert seen.known(ids).all()


def test_what_was_seen_survives_a_restart():
    seen, again, other = SeenIds(14), SeenIds(14), SeenIds(15)
    ids = RNG.integers(0, 2**62, 3_000)
    seen.first_seen(ids)
    again.from_state(seen.state())
    other.from_state(seen.state())  # of another size: begins anew
    more = np.concatenate([ids[-100:], RNG.integers(0, 2**62, 500)])
    assert np.array_equal(seen.known(more), again.known(more))
    assert seen.first_seen(more) == again.first_seen(more)
    assert not other.known(ids).any()
