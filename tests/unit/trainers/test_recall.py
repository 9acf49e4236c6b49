"""What is held back, and what a model still knows of it later."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from ranks_support import together, two_ranks
from recall_support import (
    BATCHES,
    BEGIN,
    CONFIG,
    LEARNER,
    PERIOD,
    SIZE,
    batch_of,
    changed,
    stream,
    tensors,
)
from synthetic_stream import SCHEMA, impressions

from monitoring.metrics import forgetting, gauc
from trainers.features import BatchMaker, History
from trainers.held_back import held_back, is_unlearnt, unlearnt
from trainers.learner import Learner
from trainers.ranks import Ranks
from trainers.recall import _USERS as SALT
from trainers.recall import Recall, RecallState
from trainers.recall_file import read_recall, write_recall
from trainers.samples import Held, Sample, joined
from trainers.settings import ModelConfig

MODEL = ModelConfig()
OUT = [i for i in range(400) if held_back(np.array([i]), 0.5)[0]]
"""Impression ids that are held back."""


# -- a model of a few impressions ----------------------------------------------------------


def few(period, users, clicks, ids=None, offset=0):
    """A batch in ``period`` of impressions that are held back, unless ``ids`` says otherwise."""
    count = len(users)
    times = BEGIN + period * PERIOD + offset + np.arange(count)
    rows = changed(
        impressions(1, count),
        impression_id=np.array(OUT[:count] if ids is None else ids),
        event_time=times,
        click=np.array(clicks, np.int8),
        user_id=np.array(users),
    )
    return batch_of(rows)


class Oracle:
    """Ranks the impressions of the users whom it ``knows``, and those of others upside down."""

    def __init__(self, knows=()):
        self.knows, self.asked = set(knows), 0

    def to_batch(self, rows, pad_to=None):
        self.rows = rows
        return BatchMaker(SCHEMA, MODEL)(rows, pad_to)

    def predict(self, batch):
        self.asked += 1
        known_N = np.isin(self.rows.column("user_id").to_numpy(), list(self.knows))
        return np.where(known_N, 0.1, 0.9) + np.where(known_N, 0.8, -0.8) * (
            self.rows.column("click").to_numpy()
        )


class Life:
    """A recall, driven as the loop drives it."""

    def __init__(self, config=CONFIG, model=None, state=None, ranks=None):
        self.model = model or Oracle()
        self.recall = Recall(self.model, SCHEMA, config, ranks or Ranks(), state)

    def take(self, batch):
        if self.recall.due(batch):
            self.recall.act(batch)
        made = BatchMaker(SCHEMA, MODEL)(batch.rows)
        self.recall.learning(batch.rows, self.recall.hold_back(made, batch.rows))

    def passes(self, period):
        """Event time goes on to the beginning of ``period``."""
        self.take(few(period, [99], [0]))


USERS, CLICKS = [1, 1, 2, 2], [1, 0, 1, 0]


def test_the_matrix_and_what_it_comes_to_worked_by_hand():
    life = Life()
    for period, knows in enumerate([{1, 2}, {1}, set(), {2}]):
        life.take(few(period, USERS, CLICKS))
        life.model.knows = knows
        life.passes(period + 1)
        if period == 0:
            only = life.recall.recalled()
            assert math.isnan(only.forgetting) and only.gauc == (1.0,)
    nan = math.nan
    # Four periods are over, and three are kept: those after the first.
    expected = [[0.5, nan, nan], [0.0, 0.0, nan], [0.5, 0.5, 0.5]]
    np.testing.assert_array_equal(life.recall.retained, expected)
    life.model.knows = set()
    found = life.recall.recalled()
    assert found.gauc == (0.0, 0.0, 0.0)
    assert found.backward_transfer == ((0 - 0.5) + (0 - 0)) / 2
    assert found.forgetting == ((0.5 - 0) + (0.5 - 0)) / 2
    assert found == replace(found, forgetting=forgetting([*expected, [0, 0, 0]]).forgetting)


def test_scoring_for_a_version_leaves_the_matrix_as_it_is():
    life = Life(model=Oracle({1, 2}))
    life.take(few(0, USERS, CLICKS))
    life.passes(1)
    life.model.knows = set()
    assert life.recall.recalled().gauc == (0.0,)
    np.testing.assert_array_equal(life.recall.retained, [[1.0]])


def test_a_period_that_ends_is_scored_before_what_comes_after_it_is_noted():
    life = Life(model=Oracle({1}))
    life.take(few(0, USERS, CLICKS))
    life.take(few(1, [3, 3], [1, 0], ids=OUT[10:12]))
    assert life.recall.retained.tolist() == [[0.5]]
    life.passes(2)
    assert life.recall.retained[1].tolist() == [0.5, 0.0]


def test_what_comes_late_is_held_back_and_belongs_to_no_sample():
    life = Life(model=Oracle({1, 2}))
    life.take(few(0, USERS, CLICKS))
    life.passes(1)
    before, held = life.recall.held_back, life.recall.held
    late = few(0, [3, 3], [1, 0], ids=OUT[10:12])
    life.take(replace(late, watermark=BEGIN + PERIOD))
    assert life.recall.held_back == before + 2 and life.recall.held == held


@pytest.mark.parametrize("clicks", [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
def test_a_sample_that_ranks_nobody_is_not_kept(clicks):
    life = Life()
    life.take(few(0, USERS, clicks))
    life.passes(1)
    assert life.recall.retained.shape == (0, 0) and life.recall.recalled().gauc == ()
    life.take(few(1, USERS, CLICKS, ids=OUT[4:8]))
    life.passes(2)
    assert life.recall.retained.shape == (1, 1)


def test_periods_without_anybody_are_passed_over():
    life = Life(model=Oracle({1}))
    life.take(few(0, USERS, CLICKS))
    life.passes(50)
    life.passes(90)
    assert life.recall.retained.tolist() == [[0.5]]


def test_a_model_that_diverged_knows_nothing_and_does_not_end_the_trainer():
    life = Life(model=Oracle({1, 2}))
    life.take(few(0, USERS, CLICKS))
    life.passes(1)
    life.model.predict = lambda batch: np.full(len(life.model.rows), np.nan)
    found = life.recall.recalled()
    assert math.isnan(found.gauc[0]) and found.plain()["gauc"] == [None]
    life.passes(2)
    assert life.recall.retained.tolist() == [[1.0]]


def test_nothing_held_back_asks_the_model_nothing():
    life = Life()
    learnt = [i for i in range(400) if i not in OUT]
    life.take(few(0, USERS, CLICKS, ids=learnt[:4]))
    life.take(few(1, USERS, CLICKS, ids=learnt[4:8]))
    assert life.recall.recalled().gauc == () and life.model.asked == 0
    assert life.recall.held_back == 0


# -- who is held back -------------------------------------------------------------------------


def test_ids_and_users_decide_who_is_held_back_and_padding_is_not():
    rows = impressions(3, 500)
    recall = Life(CONFIG.model_copy(update={"user_share": 0.3})).recall
    made = recall.hold_back(BatchMaker(SCHEMA, MODEL)(rows, 600), rows)
    users, ids = (rows.column(name).to_numpy() for name in ("user_id", "impression_id"))
    out_B, everyone = is_unlearnt(made), np.unique(users)
    chosen = np.unique(users[out_B])
    assert 0 < len(chosen) < len(everyone) / 2
    assert np.array_equal(out_B, held_back(ids, 0.5) & np.isin(users, chosen))
    assert not held_back(np.array([0]) ^ SALT, 0.3)[0], "0 often stands for everyone unknown"
    assert held_back(chosen ^ SALT, 0.3).all()
    assert made.weight_B[500:].sum() == 0 and made.weight_B.sum() == 500 - out_B.sum()
    again = BatchMaker(SCHEMA, MODEL)(rows)
    assert unlearnt(again, out_B) is not again and again.weight_B.sum() == 500


class Learning(Life):
    """The same with a model that learns."""

    def __init__(self, learner=None, state=None, scoring=True):
        self.learner, self.scoring, self.probabilities = learner, scoring, []
        if learner is None:
            self.learner = Learner(LEARNER, SCHEMA)
        super().__init__(CONFIG, self.learner, state)
        self.versions = []

    def take(self, batch):
        if self.scoring and self.recall.due(batch):
            self.recall.act(batch)
        made = self.recall.hold_back(self.learner.to_batch(batch.rows), batch.rows)
        self.recall.learning(batch.rows, made)
        ((probability_B, _),) = self.learner.steps([made])
        self.probabilities.append(probability_B)
        if self.scoring:
            self.versions.append(self.recall.recalled())

    def run(self, batches):
        for batch in batches:
            self.take(batch)
        return self


@pytest.fixture(scope="module")
def whole():
    return Learning().run(stream())


def test_what_is_held_back_is_predicted_and_its_clicks_never_learnt(whole):
    turned = Learning().run(stream(turned=True))
    for one, other in zip(whole.probabilities, turned.probabilities, strict=True):
        assert len(one) == SIZE and one.tobytes() == other.tobytes()
    one, other = tensors(whole.learner), tensors(turned.learner)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert 0.4 < whole.recall.held_back / (SIZE * BATCHES) < 0.6
    # The clicks that the samples hold are the turned ones.
    assert not np.allclose(whole.recall.retained, turned.recall.retained, equal_nan=True)


def test_what_is_not_held_back_is_learnt():
    without = Learner(LEARNER, SCHEMA)
    for batch in stream():
        made = without.to_batch(batch.rows)
        out_B = held_back(batch.rows.column("impression_id").to_numpy(), CONFIG.share)
        without.step(unlearnt(made, out_B))
    found = Learning().run(stream()).learner
    assert all(torch.equal(t, tensors(found)[name]) for name, t in tensors(without).items())


def test_scoring_changes_nothing_that_is_learnt(whole):
    silent = Learning(scoring=False).run(stream())
    one, other = tensors(whole.learner), tensors(silent.learner)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.recall.retained.shape == (3, 3) and silent.recall.retained.shape == (0, 0)


def test_scores_are_the_gauc_of_the_samples(whole):
    score = whole.versions[-1].gauc
    for held, found in zip(reversed(whole.recall.state().samples), score, strict=True):
        probability = whole.learner.predict(whole.learner.to_batch(held.rows))
        assert found == pytest.approx(gauc(held.user(SCHEMA), held.click(), probability).weighted)


# -- checkpoints ------------------------------------------------------------------------------


def same_state(one, other):
    assert (one.period_ms, one.closed, one.halvings) == (
        other.period_ms,
        other.closed,
        other.halvings,
    )
    np.testing.assert_array_equal(one.retained, other.retained)
    for mine, theirs in zip(
        [*one.samples, joined(one.open, SCHEMA)], [*other.samples, joined(other.open, SCHEMA)],
        strict=True,
    ):  # fmt: skip
        assert mine.rows.equals(theirs.rows)
        for a, b in zip(mine.history, theirs.history, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cut", [1, 5, 8, 11])
def test_going_on_from_a_checkpoint_gives_the_same_bits(whole, cut, tmp_path):
    first = Learning().run(stream()[:cut])
    write_recall(first.recall.state(), tmp_path, 0, SCHEMA)
    state = read_recall(tmp_path, Ranks(), SCHEMA)
    same_state(state, first.recall.state())
    second = Learning(first.learner, state).run(stream()[cut:])
    assert first.versions + second.versions == whole.versions
    same_state(second.recall.state(), whole.recall.state())
    for life, path in ((second, tmp_path / "two"), (whole, tmp_path / "one")):
        path.mkdir()
        write_recall(life.recall.state(), path, 0, SCHEMA)
    one, two = ((tmp_path / n / "recall-00000.npz").read_bytes() for n in ("one", "two"))
    assert one == two


def test_a_checkpoint_before_anything_was_held_back_and_none_at_all(tmp_path):
    assert read_recall(tmp_path, Ranks(), SCHEMA) is None
    write_recall(Life().recall.state(), tmp_path, 0, SCHEMA)
    same_state(read_recall(tmp_path, Ranks(), SCHEMA), Life().recall.state())


def test_users_who_left_a_sample_stay_away_after_a_restart():
    crowd = impressions(0, 1_000, users=300)
    rows = changed(crowd, event_time=np.full(1_000, BEGIN))
    life = Life()
    life.take(batch_of(rows))
    again = Life(state=life.recall.state())
    again.take(batch_of(rows.slice(0, 40)))
    stayed = joined(again.recall.state().open, SCHEMA).user(SCHEMA)
    assert set(stayed) == set(joined(life.recall.state().open, SCHEMA).user(SCHEMA))
    assert again.recall.state().halvings == life.recall.state().halvings > 0


def test_other_periods_begin_anew(tmp_path):
    life = Life(model=Oracle({1, 2}))
    life.take(few(0, USERS, CLICKS))
    life.passes(1)
    other = CONFIG.model_copy(update={"period_hours": 1.0})
    assert Life(other, state=life.recall.state()).recall.held == 0
    assert Life(state=life.recall.state()).recall.held == life.recall.held > 0


# -- histories --------------------------------------------------------------------------------


def test_a_sample_keeps_the_histories_that_it_came_with(tmp_path):
    config = LEARNER.model_copy(
        update={"model": LEARNER.model.model_copy(update={"history_slots": 2, "history_dim": 4})}
    )
    given = []

    class Model(Oracle):
        def predict(self, batch):
            given.append(batch.history)
            return super().predict(batch)

    life = Life(model=Model({1}))
    rng = np.random.default_rng(5)
    sent = []
    for period in range(3):
        batch = few(period, USERS, CLICKS)
        if life.recall.due(batch):
            life.recall.act(batch)
        parts = [torch.from_numpy(rng.random((6, 2, 4), np.float32)) for _ in range(2)]
        parts += [torch.from_numpy(rng.random((6, 2), np.float32)) for _ in range(2)]
        made = replace(BatchMaker(SCHEMA, config.model)(batch.rows, 6), history=History(*parts))
        life.recall.learning(batch.rows, life.recall.hold_back(made, batch.rows))
        sent.append(parts)
    life.recall.act(few(3, USERS, CLICKS))
    write_recall(life.recall.state(), tmp_path, 0, SCHEMA)
    again = Life(model=Model({1}), state=read_recall(tmp_path, Ranks(), SCHEMA))
    again.recall.recalled()
    for history in given[-2:]:
        for part, parts in zip(history.tensors(), zip(*sent, strict=True), strict=True):
            assert torch.equal(part, torch.cat([p[:4] for p in parts]))


# -- bounds -----------------------------------------------------------------------------------


def test_what_is_held_is_bounded_by_keeping_fewer_users():
    life = Life()
    for i in range(60):
        life.take(few(i // 10, [i % 50, i % 50, 7], [1, 0, 1], ids=OUT[:3], offset=i * 1_000))
        assert life.recall.held <= (CONFIG.periods + 1) * CONFIG.rows
    crowd = impressions(0, 2_000, users=300)
    rows = changed(crowd, event_time=np.full(2_000, BEGIN + 20 * PERIOD))
    life.take(batch_of(rows))
    last = life.recall.state()
    held = joined(last.open, SCHEMA)
    assert last.halvings >= 3 and 0 < len(held) <= CONFIG.rows
    users, ids = (rows.column(name).to_numpy() for name in ("user_id", "impression_id"))
    stayed = np.isin(users, held.user(SCHEMA)) & held_back(ids, CONFIG.share)
    assert len(held) == stayed.sum(), "who stays has all of his impressions"


def test_the_order_of_impressions_does_not_decide_who_stays():
    rows = impressions(0, 1_000, users=300)
    samples = []
    for order in (np.arange(1_000), np.arange(1_000)[::-1]):
        sample = Sample(SCHEMA, 100)
        for part in np.array_split(order, 37):
            sample.add(Held(rows.take(pa.array(part))))
        held = joined(sample.parts, SCHEMA)
        samples.append(sorted(held.rows.column("impression_id").to_pylist()))
    assert samples[0] == samples[1] and 0 < len(samples[0]) <= 100


def test_many_small_parts_are_put_together():
    sample = Sample(SCHEMA, 100_000)
    for i in range(300):
        sample.add(Held(impressions(i, 2)))
    assert len(sample) == 600 and len(sample.parts) <= 65


# -- ranks ------------------------------------------------------------------------------------


def test_two_ranks_score_what_either_holds_and_know_the_same(tmp_path):
    begun = RecallState(PERIOD, closed=BEGIN)
    ranks = two_ranks()
    sides = [Life(model=Oracle({1}), state=begun, ranks=rank) for rank in ranks]
    alone = Life(model=Oracle({1}), state=begun)
    first, second = few(0, USERS[:2], CLICKS[:2]), few(0, [2, 2, 3, 3], [1, 0, 1, 0], OUT[4:8])
    for life, batch in zip(sides, (first, second), strict=True):
        life.take(batch)
    alone.take(first)
    alone.take(second)
    # Only the first sees that the period is over; the other one has no batch at that turn.
    beyond = few(1, [5, 5], [0, 0], OUT[8:10])
    assert sides[0].recall.due(beyond)
    together(lambda: sides[0].recall.act(beyond), lambda: sides[1].recall.act(None))
    alone.recall.act(beyond)
    versions = together(*(side.recall.recalled for side in sides))
    assert versions == [alone.recall.recalled()] * 2
    assert alone.recall.retained[0, 0] == pytest.approx(1 / 3)
    for rank, side in enumerate(sides):
        np.testing.assert_array_equal(side.recall.retained, alone.recall.retained)
        assert side.recall.held == (2, 4)[rank]
        write_recall(side.recall.state(), tmp_path, rank, SCHEMA)
    one = Life(model=Oracle({1}), state=read_recall(tmp_path, Ranks(), SCHEMA))
    assert one.recall.recalled() == versions[0]
    third = read_recall(tmp_path, SimpleNamespace(rank=2, size=3), SCHEMA)
    assert [len(held) for held in third.samples] == [0]
    np.testing.assert_array_equal(third.retained, alone.recall.retained)
