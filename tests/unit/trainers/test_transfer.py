"""From CPM to A-CTR: the whole model, or what changed, matched by id."""

import pytest
import torch
from synthetic_stream import SCHEMA, impressions
from transfer_support import SIZE, config, hand_down, learn, tensors

from embeddings.local_tables import local_tables
from errors import UserError
from streaming.impressions import Feature, ImpressionSchema
from trainers.delta import DeltaTracker, dense_part, dense_weights
from trainers.learner import Learner, write_state
from trainers.settings import TableConfig
from trainers.transfer import accept_deltas, apply_delta, export_full, reinitialize, start_over

STREAM = [impressions(seed, SIZE) for seed in range(24)]
ADS = [impressions(100 + seed, SIZE, users=80, items=40) for seed in range(12)]
ROOMY = 2048
HASHED = TableConfig(rows=64, vocabulary="hashed")


@pytest.fixture(scope="module")
def cpm(tmp_path_factory):
    """CPM with room for everybody: a checkpoint, the delta since, and the whole model."""
    folder = tmp_path_factory.mktemp("cpm")
    learner = Learner(config(ROOMY), SCHEMA)
    tracker = DeltaTracker(learner)
    learn(learner, STREAM[:10])
    first = hand_down(learner, tracker, folder / "first")
    (folder / "checkpoint").mkdir()
    write_state(learner.snapshot(), folder / "checkpoint")
    learn(learner, STREAM[10:])
    second = hand_down(learner, tracker, folder / "second")
    (folder / "full").mkdir()
    export_full(learner, folder / "full")
    return {"learner": learner, "folder": folder, "first": first, "second": second}


def vectors(learner, table, ids):
    """[ids, D] what the learner holds for ``ids``, all of which it must know."""
    local = local_tables(learner.model)[table]
    known, rows = local.vocabulary.rows_of(ids)
    assert known.all()
    return local.weights_ND[rows].clone()


def assert_same_weights(one, other):
    """Every id's vector, hashed table and dense weight but BatchNorm's."""
    theirs = local_tables(other.model)
    for name, table in local_tables(one.model).items():
        if table.vocabulary is None:
            ours = table.weights_ND
            torch.testing.assert_close(ours, theirs[name].weights_ND, atol=1e-6, rtol=1e-5)
        else:
            ids = table.vocabulary._mch_sorted_raw_ids[: table.vocabulary.rows_in_use()]
            torch.testing.assert_close(
                vectors(one, name, ids), vectors(other, name, ids), atol=1e-6, rtol=1e-5
            )
    for name, weight in dense_weights(one).items():
        torch.testing.assert_close(weight, dense_weights(other)[name], atol=1e-6, rtol=1e-5)


def batch_norm(learner):
    state = dense_part(learner).state_dict()
    return {name: value.clone() for name, value in state.items() if name.startswith("norms.")}


def test_a_delta_makes_an_equal_copy_the_same_again(cpm):
    copy = Learner(config(ROOMY), SCHEMA)
    copy.load(cpm["folder"] / "checkpoint")
    norms = batch_norm(copy)
    applied = apply_delta(copy, cpm["second"])
    assert applied.known > 0 and applied.waiting == applied.dropped == 0
    assert_same_weights(copy, cpm["learner"])
    assert norms.keys() and all(torch.equal(norms[n], now) for n, now in batch_norm(copy).items())


def test_all_deltas_on_a_fresh_model_make_it_cpm(cpm):
    fresh = Learner(config(ROOMY), SCHEMA)
    for delta in (cpm["first"], cpm["second"]):
        apply_delta(fresh, delta)
    assert_same_weights(fresh, cpm["learner"])


def test_ids_are_matched_wherever_their_rows_are(cpm):
    actr = Learner(config(ROOMY * 2), SCHEMA)
    learn(actr, ADS)
    before = {name: weight.clone() for name, weight in dense_weights(actr).items()}
    users = cpm["second"].tables["user_id"]
    ours, theirs = (local_tables(m.model)["user_id"] for m in (actr, cpm["learner"]))
    known, rows = ours.vocabulary.rows_of(users.keys_T)
    assert (rows != theirs.vocabulary.rows_of(users.keys_T[known])[1]).any()
    had = ours.weights_ND[rows].clone()
    apply_delta(actr, cpm["second"], scale=0.5)
    expected = had + 0.5 * users.change_TD[known]
    torch.testing.assert_close(vectors(actr, "user_id", users.keys_T[known]), expected)
    strangers = users.keys_T[~known]
    assert len(strangers) > 0
    expected = ours.first_vectors(strangers) + 0.5 * users.change_TD[~known]
    torch.testing.assert_close(vectors(actr, "user_id", strangers), expected)
    for name, weight in dense_weights(actr).items():
        expected = before[name] + 0.5 * cpm["second"].dense[name]
        torch.testing.assert_close(weight, expected)
    learn(actr, ADS[:6])  # and it learns on, rounds of the vocabulary included


def test_an_id_that_finds_no_row_keeps_its_change_until_it_has_one(cpm, tmp_path):
    actr = Learner(config(128, eviction_interval=2), SCHEMA)
    accept_deltas(actr, share=10.0)
    learn(actr, STREAM[:6])
    assert actr.vocabulary_stats()["user_id"].occupancy > 0.98, "no row is free"
    users = cpm["first"].tables["user_id"]
    applied = apply_delta(actr, cpm["first"])
    local = local_tables(actr.model)["user_id"]
    known, _ = local.vocabulary.rows_of(users.keys_T)
    waiting = users.keys_T[~known]
    assert len(waiting) > 20 and applied.waiting >= len(waiting) and applied.dropped == 0
    write_state(actr.snapshot(), tmp_path)
    resumed = Learner(config(128, eviction_interval=2), SCHEMA)
    accept_deltas(resumed, share=10.0)
    resumed.load(tmp_path)
    local = local_tables(resumed.model)["user_id"]
    assert torch.equal(local.vocabulary.waiting.ids_W, waiting.sort().values)
    assert_waiting_ids_start_from_their_change(resumed, local, users, waiting)
    assert learn(resumed, STREAM[6:9]) != learn(actr, STREAM[6:9]), "one of them has learnt on"


def assert_waiting_ids_start_from_their_change(learner, local, users, waiting):
    """The first round that gives rows to some of ``waiting``, seen just before they learn."""
    change = dict(zip(users.keys_T.tolist(), users.change_TD, strict=True))
    started = {}
    stock = local.init.__class__.__call__

    def noting(init, rows_ND):
        vectors_ND = stock(init, rows_ND)
        if init is local.init:
            for i, vector_D in zip(local.vocabulary.newest_ids().tolist(), vectors_ND, strict=True):
                started.setdefault(i, vector_D.clone())  # the first time, not when it came back
        return vectors_ND

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.init.__class__, "__call__", noting)
        learn(learner, [impressions(200 + i, SIZE) for i in range(12)])
    came = [i for i in waiting.tolist() if i in started]
    assert came
    for i in came:
        expected = local.first_vectors(torch.tensor([i]))[0] + change[i]
        torch.testing.assert_close(started[i], expected)
    assert not local.vocabulary.waiting.known(torch.tensor(came)).any()


def test_of_too_many_that_wait_the_smallest_changes_are_dropped(cpm):
    actr = Learner(config(128), SCHEMA)
    accept_deltas(actr, share=0.1)
    learn(actr, STREAM[:6])
    applied = apply_delta(actr, cpm["first"])
    local = local_tables(actr.model)["user_id"]
    waiting = local.vocabulary.waiting
    assert applied.dropped > 0 and len(waiting) == waiting.capacity == 12
    users = cpm["first"].tables["user_id"]
    outside = ~local.vocabulary.rows_of(users.keys_T)[0]
    norms = users.change_TD[outside].norm(dim=1)
    kept = torch.isin(users.keys_T[outside], waiting.ids_W)
    assert norms[kept].min() >= norms[~kept].max()


def test_a_whole_model_is_taken_over_with_a_new_batch_norm_and_optimizer(cpm):
    actr = Learner(config(ROOMY), SCHEMA)
    learn(actr, ADS)
    reinitialize(actr, cpm["folder"] / "full")
    assert_same_weights(cpm["learner"], actr)
    fresh = batch_norm(Learner(config(ROOMY), SCHEMA))
    assert all(torch.equal(fresh[n], now) for n, now in batch_norm(actr).items())
    optimizer = {n: t for n, t in tensors(actr).items() if n.startswith("optimizer.")}
    assert optimizer and not any(t.any() for t in optimizer.values())
    assert actr.steps_done == len(ADS)
    learn(actr, ADS)


def test_starting_over_is_being_as_just_made():
    learner = Learner(config(), SCHEMA)
    learn(learner, STREAM[:9])
    start_over(learner)
    assert learn(learner, STREAM[9:18]) == learn(Learner(config(), SCHEMA), STREAM[9:18])
    assert learner.steps_done == 18


def test_batch_norm_is_kept_when_asked(cpm):
    actr = Learner(config(ROOMY), SCHEMA)
    reinitialize(actr, cpm["folder"] / "full", keep_batch_norm=True)
    theirs = batch_norm(cpm["learner"])
    assert all(torch.equal(theirs[n], now) for n, now in batch_norm(actr).items())


def test_hashed_tables_are_matched_by_row(tmp_path):
    learner, copy = Learner(config(ids=HASHED), SCHEMA), Learner(config(ids=HASHED), SCHEMA)
    tracker = DeltaTracker(learner)
    learn(learner, STREAM[:6])
    apply_delta(copy, hand_down(learner, tracker, tmp_path / "delta"))
    assert_same_weights(copy, learner)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"hidden": (8,)}, "weight layers.0.weight: 16 x .* there, 8 x "),
        ({"dim": 8}, "table creative_id: managed, width 16 there, managed, width 8 here"),
        (
            {"ids": TableConfig(rows=64, vocabulary="hashed")},
            "rows of categories user_id: none there",
        ),
        (
            {"categories": TableConfig(rows=64, vocabulary="hashed")},
            "rows of categories hour: 1000",
        ),
    ],
)
def test_another_model_is_refused_and_what_differs_is_named(cpm, other, named):
    actr = Learner(config(**{"rows": ROOMY} | other), SCHEMA)
    before = tensors(actr)
    with pytest.raises(UserError, match=named):
        apply_delta(actr, cpm["second"])
    with pytest.raises(UserError, match=named):
        reinitialize(actr, cpm["folder"] / "full")
    assert all(torch.equal(before[n], t) for n, t in tensors(actr).items())


def test_other_features_are_refused_and_named(cpm):
    more = (*SCHEMA.features, Feature(name="weekday", kind="categorical", optional=True))
    actr = Learner(config(ROOMY), ImpressionSchema(features=more))
    with pytest.raises(UserError, match="feature weekday: none there, categorical in table"):
        apply_delta(actr, cpm["second"])


def test_a_whole_model_with_another_number_of_ids_is_refused(cpm):
    with pytest.raises(UserError, match="rows of ids user_id: 2048 there, 128 here"):
        reinitialize(Learner(config(128), SCHEMA), cpm["folder"] / "full")
