"""A successor that learns beside the A-CTR that predicts: when it takes over, and what then."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path

import pytest
import torch
from successor_support import Follower, Life, Listed, ads, configuration, whole_models
from transfer_support import tensors

from embeddings.local_tables import local_tables
from errors import UserError
from settings import load
from streaming.log_gap import Gap, LogGapError
from trainers.checkpoint import verify
from trainers.hand_down import CLOSED, HANDED
from trainers.learner import Learner
from trainers.ranks import Ranks
from trainers.transfer import reinitialize

LOG = ads(24)
BOUNDARY = 10  # the first batch behind it
# Before batch 10 + j it has learnt each * (j + 1) of 10 + j batches.
TAKE_OVERS = {2: 18, 3: 14, 4: 12, 9: 11}


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    """Whole models at the first window's end, half a window later, and in the end."""
    return whole_models(tmp_path_factory.mktemp("cpm"), 11_000, 11_500, 12_400)


@pytest.fixture(autouse=True)
def announced(monkeypatch, handed):
    """What A-CTR's follower finds; the first of CPM's unless a test says otherwise."""
    monkeypatch.setattr("trainers.level_transfer.follow", Follower)
    monkeypatch.setattr(Follower, "hand_downs", [handed[11_000]])


@pytest.fixture(scope="module")
def alone():
    """A learner that is handed nothing down: predictions of every batch."""
    learner = actr()
    return [learner.step(learner.to_batch(batch.rows))[0].tobytes() for batch in LOG]


def actr() -> Learner:
    config = configuration()
    return Learner(config.actr, config.impressions)


def succeeded(hand_down, first: int, until: int, end: int):
    """By hand: from CPM's model, what the batches before ``until`` teach, then ``end``."""
    learner = actr()
    reinitialize(learner, Path(hand_down.location))
    for batch in LOG[first:until]:
        learner.step(learner.to_batch(batch.rows))
    batches = LOG[until:end]
    return learner, [learner.step(learner.to_batch(b.rows))[0].tobytes() for b in batches]


def predictions(*lives: Life) -> list[bytes]:
    """Of every batch; what was predicted again must be the same."""
    found: dict[int, bytes] = {}
    for life in lives:
        again = found.keys() & life.probability.keys()
        assert all(found[step] == life.probability[step] for step in again)
        found |= life.probability
    assert sorted(found) == list(range(len(found)))
    return [found[step] for step in sorted(found)]


def assert_same_weights(one: Learner, other: Learner) -> None:
    """Tables, vocabularies, dense weights and optimizers, bit for bit."""
    ours, theirs = tensors(one), tensors(other)
    assert [n for n in theirs if not torch.equal(ours[n], theirs[n])] == []
    for name, vocabulary in one.vocabularies.items():
        ours, theirs = (v.history() for v in (vocabulary, other.vocabularies[name]))
        assert all(torch.equal(ours[column], theirs[column]) for column in theirs)


@pytest.mark.parametrize("each", TAKE_OVERS)
def test_it_takes_over_when_it_has_learnt_all_that_the_other_has(tmp_path, alone, handed, each):
    life = Life(tmp_path, LOG, catch_up_batches=each).run()
    at = TAKE_OVERS[each]
    learner, after = succeeded(handed[11_000], 0, at, len(LOG))
    found = predictions(life)
    assert found[:at] == alone[:at], "the old one's, as if nothing had been handed down"
    assert found[at:] == after
    assert_same_weights(life.learner, learner)
    assert life.progress.marks == {CLOSED: 11_000, HANDED: 11_000}
    assert all(reader.closed for reader in life.readers)


def test_its_memory_is_given_back(tmp_path, monkeypatch):
    tables = []

    def noted(*args) -> Learner:
        learner = Learner(*args)
        tables.extend(weakref.ref(t.kernel) for t in local_tables(learner.model).values())
        return learner

    monkeypatch.setattr("trainers.successor.Learner", noted)
    gc.disable()  # or it may come round by chance
    try:
        life = Life(tmp_path, LOG[:15], catch_up_batches=4).run()
    finally:
        gc.enable()
    assert "took over" in life.told[1]
    assert tables and not [table for table in tables if table() is not None]


def test_the_log_tells_when_it_begins_and_what_was_learnt(tmp_path):
    life = Life(tmp_path, LOG, catch_up_batches=4).run()
    begins, over = life.told
    assert begins.startswith("preparing a successor from CPM's hand-down of 1970-01-01 00:00: ")
    assert begins.endswith("it learns 10 batches of the last window again")
    assert re.fullmatch(
        r"CPM's hand-down of 1970-01-01 00:00: the whole model, 320 ads of the last window again, "
        r"64 since: its successor took over in \d+\.\d\d s",
        over,
    )
    # Of ten, and of each live one, four are learnt before each.
    assert life.left[9:13] == [0, 6, 3, 0]


def test_a_newer_hand_down_waits_until_the_one_before_has_taken_over(
    tmp_path, monkeypatch, alone, handed
):
    monkeypatch.setattr(Follower, "hand_downs", [handed[11_000], handed[11_500]])
    life = Life(tmp_path, LOG, catch_up_batches=2).run()
    begun, over, begun_again = life.told[:3]
    assert begun.endswith("learns 10 batches of the last window again") and "took over" in over
    _, first = succeeded(handed[11_000], 0, 18, len(LOG))
    assert predictions(life) == alone[:18] + first
    # The last window's, as of batch 18, begin with batch 7.
    assert begun_again.endswith("it learns 11 batches of the last window again")
    assert life.transfer._successor.preparation.hand_down == handed[11_500]
    assert life.progress.marks == {CLOSED: 11_000, HANDED: 11_000}
    assert "the next start prepares it again" in life.told[3] and len(life.told) == 4


def test_the_second_hand_down_is_prepared_from_its_own_last_window(tmp_path, monkeypatch, handed):
    log = ads(34)
    monkeypatch.setattr(Follower, "hand_downs", [handed[11_000], handed[12_400]])
    life = Life(tmp_path, log, catch_up_batches=4).run()
    first, _ = succeeded(handed[11_000], 0, 12, 12)
    learner = actr()
    reinitialize(learner, Path(handed[12_400].location))
    for batch in log[13:]:  # its window's begin with batch 13, and it takes over before 27
        learner.step(learner.to_batch(batch.rows))
    assert_same_weights(life.learner, learner)
    expected = [first.step(first.to_batch(b.rows))[0].tobytes() for b in log[12:27]]
    assert predictions(life)[12:27] == expected
    assert life.progress.marks[HANDED] == 12_400


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, handed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.level_transfer.follow", Follower)
        patch.setattr(Follower, "hand_downs", [handed[11_000]])
        return Life(tmp_path_factory.mktemp("undisturbed"), LOG, catch_up_batches=2).run()


@pytest.mark.parametrize("killed_at", [10, 13, 17, 20])
def test_a_crash_leaves_no_trace(tmp_path, undisturbed, killed_at):
    """Checkpoints are of batches 3, 6, 9 and so on: before, while and after it is prepared."""
    first = Life(tmp_path, LOG, every=3, catch_up_batches=2).run(kill_at=killed_at)
    second = Life(tmp_path, LOG, every=3, catch_up_batches=2)
    assert second.progress.step == killed_at // 3 * 3
    second.run()
    assert predictions(first, second) == predictions(undisturbed)
    assert_same_weights(second.learner, undisturbed.learner)
    assert second.progress == undisturbed.progress
    endings = {
        10: " the last window again",
        13: " again and the 2 that were learnt since",
        17: " again and the 5 that were learnt since",
        20: " again and the 8 that were learnt since",
    }
    prepared = [line for line in second.told if line.startswith("preparing a successor")]
    assert len(prepared) == 1 and prepared[0].endswith(endings[killed_at])


def test_checkpoints_hold_the_old_model_until_it_takes_over(tmp_path, alone, handed):
    life = Life(tmp_path, LOG, every=1, catch_up_batches=2).run()
    for path in life.store.paths():
        progress = verify(path).progress
        assert (path / "successor.json").exists() == (10 < progress.step < 19)
        assert progress.marks.get(HANDED, 0) == (11_000 if progress.step > 18 else 0)
        if progress.step == 18:
            learner, rows = actr(), LOG[18].rows
            learner.load(path)
            assert learner.step(learner.to_batch(rows))[0].tobytes() == alone[18]


def test_files_that_are_gone_leave_the_old_one_in_its_place(tmp_path, alone, handed):
    Life(tmp_path, LOG, every=3, catch_up_batches=2).run(kill_at=13)
    path = Path(handed[11_000].location)
    aside = path.rename(path.with_name("aside"))
    try:
        life = Life(tmp_path, LOG, catch_up_batches=2).run()
    finally:
        aside.rename(path)
    (line,) = life.told
    assert "cannot be read" in line and line.endswith("left out")
    assert [life.probability[step] for step in range(12, 24)] == alone[12:]
    assert life.progress.marks == {CLOSED: 11_000, HANDED: 11_000}


def test_one_that_diverges_leaves_the_old_one_in_its_place(tmp_path, monkeypatch, alone):
    class Diverging(Learner):
        def step(self, batch):
            probability_B, loss = super().step(batch)
            return probability_B, float("nan") if self.steps_done == 7 else loss

    monkeypatch.setattr("trainers.successor.Learner", Diverging)
    life = Life(tmp_path, LOG, catch_up_batches=2).run()
    assert life.told[1].endswith("diverged: left out") and len(life.told) == 2
    assert predictions(life) == alone
    assert life.progress.marks == {CLOSED: 11_000, HANDED: 11_000}


class Overtaken(Listed):
    def next_batch(self, timeout):
        raise LogGapError([Gap("impressions.ad", 0, 0, 9, None, None)])


def test_what_retention_took_of_the_last_window_is_said_and_left(tmp_path, alone, handed):
    life = Life(tmp_path, LOG, catch_up_batches=2)
    reader_at = life._reader_at
    life._reader_at = lambda b: Overtaken(LOG, b) if not b.positions[0].offset else reader_at(b)
    life.run()
    _, lost, over = life.told
    assert "what is left of the last window is not learnt again" in lost
    assert ", 0 ads of the last window again, 0 since" in over
    learner, after = succeeded(handed[11_000], 0, 0, 0)
    for batch in LOG[BOUNDARY:]:
        after.append(learner.step(learner.to_batch(batch.rows))[0].tobytes())
    assert predictions(life) == alone[:BOUNDARY] + after
    assert_same_weights(life.learner, learner)


@pytest.mark.parametrize(
    "settings",
    [
        {"align": True},
        {"transfer_beside": "never"},
        {"catch_up_batches": 10},  # the last window is no longer than that
    ],
)
def test_where_the_stream_waits_it_takes_over_at_the_boundary(tmp_path, handed, settings):
    life = Life(tmp_path, LOG, **settings).run()
    learner, after = succeeded(handed[11_000], 0, BOUNDARY, len(LOG))
    assert predictions(life)[BOUNDARY:] == after
    (line,) = life.told
    assert "the whole model, 320 ads of the last window again in" in line
    assert_same_weights(life.learner, learner)


def test_a_preparation_that_was_cut_short_is_due_at_once_where_the_stream_waits(tmp_path, handed):
    Life(tmp_path, LOG, every=3, catch_up_batches=2).run(kill_at=13)
    life = Life(tmp_path, LOG, transfer_beside="never").run()
    # The last window's, as of batch 12, begin with batch 1.
    learner, after = succeeded(handed[11_000], 1, 12, len(LOG))
    assert [life.probability[step] for step in range(12, len(LOG))] == after
    assert_same_weights(life.learner, learner)
    assert not (life.store.paths()[0] / "successor.json").exists()


def test_aligned_it_may_be_asked_for_all_the_same(tmp_path):
    life = Life(tmp_path, LOG, align=True, transfer_beside="always", catch_up_batches=4).run()
    assert life.told[0].startswith("preparing a successor")


class TwoRanks(Ranks):
    """Says that there are two, and is the only one."""

    def __init__(self) -> None:
        self.rank, self.size, self.saving, self._turns = 0, 2, None, None

    def turn(self, **flags):
        return Ranks().turn(**flags)

    def _gather(self, value, group):
        return [value]


def test_on_several_ranks_the_stream_waits_and_the_log_says_so(tmp_path, handed):
    life = Life(tmp_path, LOG, ranks=TwoRanks(), catch_up_batches=2).run()
    said, taken = life.told
    assert said.startswith("several ranks: the stream waits") and "transfer_beside" in said
    assert "the whole model, 320 ads of the last window again in" in taken
    assert predictions(life)[BOUNDARY:] == succeeded(handed[11_000], 0, BOUNDARY, 24)[1]


def test_one_batch_for_each_live_one_would_never_catch_up():
    with pytest.raises(UserError, match="greater than or equal to 2"):
        load(type(configuration()), None, {}, ["actr.catch_up_batches=1"])
