"""The pure part of the rotation's benchmark: what it measures, and what it turns back."""

import numpy as np
import pytest

from benchmarks.rotation import aligned, cosine_distance, in_common, procrustes, turns
from embeddings.history import Snapshot

DIM = 8


def vectors(seed, n=100):
    return np.random.default_rng(seed).normal(size=(n, DIM))


def rotation(angle):
    turn_DD = np.eye(DIM)
    turn_DD[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn_DD


def period(vectors_ND, end=1, first_id=0):
    """Even ids are users, odd ones items."""
    ids_N = np.arange(first_id, first_id + len(vectors_ND))
    kinds = {"user": ids_N % 2 == 0, "item": ids_N % 2 == 1}
    return [
        Snapshot(kind, 0, end, ids_N[own], vectors_ND[own].astype(np.float16))
        for kind, own in kinds.items()
    ]


def test_a_known_rotation_is_found():
    older_MD, turn_DD = vectors(0), np.linalg.qr(vectors(1, DIM))[0]
    np.testing.assert_allclose(procrustes(older_MD, older_MD @ turn_DD), turn_DD.T, atol=1e-9)


def test_turns_are_measured_and_turned_back():
    older = vectors(2)
    periods = [period(older), period(older @ rotation(0.4), end=2)]
    (turn,) = turns(periods)
    assert turn.before > 0.01
    assert turn.after == pytest.approx(0, abs=1e-4)
    # Two of the dimensions turn: |R - I|² is 2 · 2(1 - cos).
    assert turn.distance == pytest.approx(np.sqrt(4 * (1 - np.cos(0.4))), rel=1e-2)


def test_periods_are_rotated_onto_the_first_one_and_newcomers_turn_along():
    everyone = vectors(3)
    periods = [
        period(everyone[:60]),
        period(everyone[20:80] @ rotation(0.4), end=2, first_id=20),
        period(everyone[40:] @ rotation(0.9), end=3, first_id=40),
    ]
    first, *others = aligned(iter(periods))
    assert first is periods[0]
    for found, expected in zip(
        others,
        (period(everyone[20:80], first_id=20), period(everyone[40:], first_id=40)),
        strict=True,
    ):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.vectors_ND, other.vectors_ND, atol=0.02)
            assert one.period_end > 1


def test_only_entities_in_both_periods_are_compared():
    one, other = vectors(4, 10), vectors(5, 10)
    older_MD, newer_MD = in_common(period(one), period(other, end=2, first_id=6))
    assert len(older_MD) == 4
    np.testing.assert_allclose(np.sort(older_MD, 0), np.sort(one[6:], 0), atol=0.01)
    np.testing.assert_allclose(np.sort(newer_MD, 0), np.sort(other[:4], 0), atol=0.01)


def test_cosine_distance_by_hand():
    older_MD = np.array([[1.0, 0], [0, 2], [1, 1], [0, 0]])
    newer_MD = np.array([[3.0, 0], [2, 0], [-1, -1], [1, 0]])
    # Same direction 0, right angle 1, opposite 2; zeros do not count.
    assert cosine_distance(older_MD, newer_MD) == pytest.approx(1.0)
