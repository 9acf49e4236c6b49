"""What CPM notes of its own changes: all of them, taken up after a restart, and no more."""

import pytest
import torch
from synthetic_stream import SCHEMA, impressions
from transfer_support import SIZE, config, learn

from embeddings.local_tables import local_tables
from trainers.delta import COPIED, DeltaTracker
from trainers.learner import Learner, write_state
from trainers.transfer import export_delta, read_delta

STREAM = [impressions(seed, SIZE) for seed in range(24)]


both_ways = pytest.mark.parametrize("copied", [0, COPIED], ids=["noted", "copied"])


def exported(learner, tracker, directory):
    directory.mkdir(parents=True)
    export_delta(learner, tracker, directory)
    tracker.rebase()
    return (directory / "delta-00000.npz").read_bytes()


def test_what_changed_is_handed_down_to_the_bit_however_it_was_found(tmp_path):
    learners = [Learner(config(), SCHEMA) for _ in range(2)]
    trackers = [DeltaTracker(learners[0], 0), DeltaTracker(learners[1], COPIED)]
    for k in range(4):
        one, other = (
            learn(learner, STREAM[5 * k : 5 * k + 5])
            and exported(learner, tracker, tmp_path / f"{name}-{k}")
            for name, (learner, tracker) in enumerate(zip(learners, trackers, strict=True))
        )
        assert one == other
    assert learners[0].vocabulary_stats()["user_id"].evicted_total > 0, "ids come and go"


@both_ways
@pytest.mark.parametrize("stopped_at", [9, 10, 12, 15])
def test_a_restart_in_between_hands_down_the_same_bits(tmp_path, stopped_at, copied):
    one = Learner(config(), SCHEMA)
    tracker = DeltaTracker(one, copied)
    learn(one, STREAM[:8])
    exported(one, tracker, tmp_path / "first")
    learn(one, STREAM[8:stopped_at])
    (tmp_path / "checkpoint").mkdir()
    write_state(one.snapshot(), tmp_path / "checkpoint")
    state = tracker.state()
    learn(one, STREAM[stopped_at:20])  # what the checkpoint must not hold
    tracker.write(state, tmp_path / "checkpoint")
    assert one.vocabulary_stats()["user_id"].evicted_total > 0, "ids come and go"

    two = Learner(config(), SCHEMA)
    again = DeltaTracker(two, copied)
    two.load(tmp_path / "checkpoint")
    again.load(tmp_path / "checkpoint")
    learn(two, STREAM[stopped_at:20])
    assert exported(two, again, tmp_path / "two") == exported(one, tracker, tmp_path / "one")


@both_ways
def test_only_what_was_touched_is_carried_and_predicting_touches_nothing(tmp_path, copied):
    learner = Learner(config(rows=1024), SCHEMA)
    tracker = DeltaTracker(learner, copied)
    learn(learner, STREAM[:8])
    exported(learner, tracker, tmp_path / "first")
    learner.predict(learner.to_batch(STREAM[9]))
    assert tracker.rows_noted() == 0
    exported(learner, tracker, tmp_path / "none")
    nothing = read_delta(tmp_path / "none")
    assert nothing.rows == 0 and not any(change.any() for change in nothing.dense.values())
    learn(learner, [STREAM[0].slice(0, 4)])
    exported(learner, tracker, tmp_path / "few")
    users = read_delta(tmp_path / "few").tables["user_id"]
    assert 0 < len(users.keys_T) <= 4 and not users.gone_T.any()


@both_ways
def test_memory_is_bounded_by_the_rows_that_there_are(copied):
    learner = Learner(config(), SCHEMA)
    tracker = DeltaTracker(learner, copied)
    learn(learner, STREAM[:8])
    tracker.rebase()
    learn(learner, [impressions(50 + i, SIZE, first_user=400 * i) for i in range(20)])
    assert learner.vocabulary_stats()["user_id"].evicted_total > 200
    assert tracker.rows_noted() <= sum(
        len(table.weights_ND) for table in local_tables(learner.model).values()
    )


@both_ways
def test_deltas_add_up_also_for_ids_that_come_and_go(tmp_path, copied):
    """The sum of an id's changes is where it stands now; nothing, when it has no row."""
    learner = Learner(config(), SCHEMA)
    tracker = DeltaTracker(learner, copied)
    total: dict[int, torch.Tensor] = {}
    came_back, everybody_gone = 0, set()
    for k in range(8):
        learn(learner, [impressions(3 * k + i, SIZE, first_user=60 * (k % 4)) for i in range(3)])
        exported(learner, tracker, tmp_path / str(k))
        users = read_delta(tmp_path / str(k)).tables["user_id"]
        assert torch.equal(users.keys_T, users.keys_T.unique()), "each id once"
        gone = set(users.keys_T[users.gone_T].tolist())
        came_back += len(everybody_gone & set(users.keys_T[~users.gone_T].tolist()))
        everybody_gone |= gone
        for key, change_D in zip(users.keys_T.tolist(), users.change_TD, strict=True):
            total[key] = total.get(key, 0) + change_D
    assert came_back > 0, "the stream must bring ids back"
    table = local_tables(learner.model)["user_id"]
    ids_T = torch.tensor(list(total))
    known_T, rows_K = table.vocabulary.rows_of(ids_T)
    sums_TD = torch.stack(list(total.values()))
    expected_KD = table.weights_ND[rows_K] - table.first_vectors(ids_T[known_T])
    torch.testing.assert_close(sums_TD[known_T], expected_KD, atol=1e-6, rtol=1e-5)
    assert known_T.any() and not known_T.all()
    torch.testing.assert_close(
        sums_TD[~known_T], torch.zeros_like(sums_TD[~known_T]), atol=1e-6, rtol=0
    )


@both_ways
def test_learning_gives_the_same_bits_with_and_without_tracking(copied):
    plain, tracked = Learner(config(), SCHEMA), Learner(config(), SCHEMA)
    DeltaTracker(tracked, copied)
    assert learn(plain, STREAM[:12]) == learn(tracked, STREAM[:12])
