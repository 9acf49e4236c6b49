"""The pure part of the overload's benchmark: growth after the warm-up, and who is missing."""

import numpy as np
import pytest

from benchmarks.overload import grew
from benchmarks.overload_figures import accounted, growth


def test_what_grows_only_at_first_does_not_grow():
    seen = growth([(minute, min(100.0 + 40 * minute, 200.0)) for minute in range(40)])
    assert (seen.median, seen.greatest) == (200, 200)
    assert seen.slope == pytest.approx(0, abs=1e-9)


def test_what_goes_on_growing_is_told_with_its_pace():
    seen = growth([(minute / 2, 300.0 + minute) for minute in range(40)])
    assert seen.slope == pytest.approx(2)
    assert seen.rise == pytest.approx(29 / seen.median)


def test_every_impression_is_to_be_predicted_once():
    ids = np.arange(10)
    assert accounted(ids, ids[::-1]) == (0, 0)
    assert accounted(ids, ids[:7]) == (3, 0)
    assert accounted(ids, np.append(ids, [4, 4])) == (0, 2)
    assert accounted(ids, np.append(ids[1:], 99)) == (1, 1)


def test_a_process_is_held_against_its_warm_up_and_java_against_its_heap():
    rising = growth([(minute, 300.0 + 2 * minute) for minute in range(40)])
    assert grew("train-actr", rising) and not grew("kafka", rising)
    assert grew("kafka", growth([(minute, 400.0 + 4 * minute) for minute in range(40)]))
    assert not grew("train-actr", growth([(minute, 900.0 + minute / 10) for minute in range(40)]))
