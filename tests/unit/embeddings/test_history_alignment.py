import numpy as np
import pytest

from embeddings.history import Snapshot
from embeddings.history_alignment import align, cosine_distance, procrustes

DIM = 8


def period(vectors_ND, end=1, kind="user", bucket=0, first_id=0):
    ids_N = np.arange(first_id, first_id + len(vectors_ND))
    return Snapshot(kind, bucket, end, ids_N, vectors_ND.astype(np.float16))


def vectors(seed, n=300):
    return np.random.default_rng(seed).normal(size=(n, DIM))


def orthogonal(seed):
    return np.linalg.qr(vectors(seed, DIM))[0]


def test_a_known_rotation_is_found_and_undone():
    older, turn_DD = vectors(0), orthogonal(1)
    before, after = [period(older)], [period(older @ turn_DD, end=2)]
    found = procrustes(before, after)
    np.testing.assert_allclose(found.rotation_DD, turn_DD.T, atol=2e-3)
    assert found.entities == 300
    assert found.before > 0.5
    assert found.after < 2e-3
    aligned = align(before, after)[0]
    assert aligned.period_end == 2
    np.testing.assert_allclose(aligned.vectors_ND, older, atol=0.02)


def test_users_and_items_are_turned_alike_over_all_buckets():
    turn_DD = orthogonal(2)
    parts = [("item", 3), ("user", 0), ("user", 1)]
    older = [period(vectors(i, 40), kind=k, bucket=b) for i, (k, b) in enumerate(parts)]
    newer = [period(vectors(i, 40) @ turn_DD, 2, k, b) for i, (k, b) in enumerate(parts)]
    aligned = align(older, newer[::-1])
    assert [(s.kind, s.bucket) for s in aligned] == [(s.kind, s.bucket) for s in newer[::-1]]
    for was, now in zip(older[::-1], aligned, strict=True):
        np.testing.assert_allclose(now.vectors_ND, was.vectors_ND, atol=0.02)


def test_only_entities_in_common_count_and_newcomers_turn_along():
    older, turn_DD = vectors(3), orthogonal(4)
    before = [period(older[:200])]
    after = [period(older[100:] @ turn_DD, end=2, first_id=100)]
    assert procrustes(before, after).entities == 100
    np.testing.assert_allclose(align(before, after)[0].vectors_ND, older[100:], atol=0.02)


def test_too_few_in_common_turn_nothing():
    older = vectors(5, DIM - 1)
    found = procrustes([period(older)], [period(older @ orthogonal(6))])
    assert found.angle == 0
    nobody = procrustes([period(older)], [period(older, first_id=1_000)])
    assert nobody.entities == 0
    assert np.isnan(nobody.before)
    np.testing.assert_array_equal(nobody.rotation_DD, np.eye(DIM))
    assert procrustes([], []).entities == 0


def test_angle_of_a_turn_in_one_plane():
    turn_DD = np.eye(DIM)
    turn_DD[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    older = vectors(7)
    found = procrustes([period(older)], [period(older @ turn_DD)])
    assert found.angle == pytest.approx(0.4 * np.sqrt(2 / DIM), abs=1e-3)


def test_cosine_distance_by_hand():
    older = period(np.array([[1.0, 0], [0, 2], [1, 1], [0, 0], [5, 5]]))
    newer = period(np.array([[3.0, 0], [2, 0], [-1, -1], [1, 0]]), end=2)
    # Same direction 0, right angle 1, opposite 2; zeros and the absent do not count.
    assert cosine_distance([older], [newer]) == pytest.approx(1.0)
    assert np.isnan(cosine_distance([older], []))
