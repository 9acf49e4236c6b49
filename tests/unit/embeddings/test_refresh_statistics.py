import math

import numpy as np
import pytest

from embeddings.history import Snapshot, Window, empty_window, merge
from embeddings.refresh_statistics import Statistics, statistics, total


def snapshot(end, vectors):
    ids_N = np.array(sorted(vectors), np.int64)
    return Snapshot("user", 0, end, ids_N, np.array([vectors[i] for i in ids_N], np.float16))


def merged(*snapshots, slots=3):
    window = empty_window(slots, 2)
    for one in snapshots:
        window = merge(window, one)
    return window


def test_a_turn_by_a_right_angle_and_one_that_stays():
    older = snapshot(10, {1: [1, 0], 2: [0, 1], 3: [1, 1]})
    newer = snapshot(20, {1: [0, 1], 2: [0, 2], 4: [5, 5]})
    found = statistics(merged(older, newer))
    assert (found.entities, found.seen, found.returning, found.compared) == (4, 3, 2, 2)
    assert found.coverage == pytest.approx(2 / 3)
    assert found.mean_distance == pytest.approx(0.5)


def test_a_vector_of_zeros_has_no_direction():
    found = statistics(merged(snapshot(10, {1: [0, 0]}), snapshot(20, {1: [1, 0]})))
    assert (found.returning, found.compared) == (1, 0)
    assert math.isnan(found.mean_distance)


def test_nobody_seen_is_undefined_not_zero():
    found = statistics(empty_window(3, 2))
    assert found == Statistics()
    assert math.isnan(found.coverage)
    of_nobody = Window(
        np.array([1]), np.array([[10, 0]]), np.ones((1, 2, 2), np.float16), newest_period_end=20
    )
    assert statistics(of_nobody) == Statistics(entities=1)


def test_one_slot_compares_nothing():
    found = statistics(merged(snapshot(10, {1: [1, 0]}), snapshot(20, {1: [1, 0]}), slots=1))
    assert found == Statistics(entities=1, seen=1)


def test_buckets_add_up():
    one = statistics(merged(snapshot(10, {1: [1, 0]}), snapshot(20, {1: [0, 1]})))
    other = statistics(merged(snapshot(10, {2: [1, 0]}), snapshot(20, {2: [1, 0], 3: [1, 0]})))
    assert total([one, other]) == Statistics(3, 3, 2, 1.0, 2)
    assert total([]) == Statistics()
