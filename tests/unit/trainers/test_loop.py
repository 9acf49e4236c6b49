"""The loop over a pretend model whose state is a running sum: nothing lost, nothing twice."""

import json

import pytest
from pretend_trainer import SIZE, World, batches

from errors import UserError
from streaming.impressions import Position
from trainers.checkpoint import verify


def test_all_is_learnt_published_and_saved_at_the_end(tmp_path):
    world = World(tmp_path, batches(8))
    progress = world.run()
    assert progress.step == 8 and progress.impressions == 8 * SIZE and progress.watermark == 7
    assert world.sum == sum(range(32))
    assert world.events.count(("learnt",)) == 8
    assert [e[1] for e in world.events if e[0] == "publish"] == list(range(8))
    assert world.store.latest().progress.positions == {0: Position(32)}


def test_what_was_published_is_durable_before_a_checkpoint_is_current(tmp_path):
    world = World(tmp_path, batches(2))
    world.run()
    assert world.events[-1] == ("durable",) and world.saved[-1].checkpoint is not None


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("stop_after", range(1, 9))
def test_stopping_anywhere_and_going_on_learns_each_batch_once(tmp_path, stop_after, ahead):
    World(tmp_path, batches(8), stop_after=stop_after, ahead=ahead).run()
    world = World(tmp_path, batches(8))
    assert world.loop.progress.step == stop_after
    world.run()
    assert world.sum == sum(range(32))


def test_a_failed_checkpoint_does_not_stop_the_loop_and_the_next_one_works(tmp_path):
    world = World(tmp_path, batches(8), every=2, broken_disk=(2, 4))
    world.run()
    assert [s.error is None for s in world.saved][:1] == [False]
    assert world.saved[-1].error is None and world.store.latest().progress.step == 8
    assert not list(tmp_path.glob(".writing-*"))


def test_a_failed_last_checkpoint_is_tried_once_more(tmp_path):
    world = World(tmp_path, batches(2), every=2, broken_disk=(2,))
    world.run()
    assert world.saved[-1].error is not None
    assert len(world.saved) == 2 and world.store.latest() is None


def test_a_checkpoint_holds_what_was_learnt_also_when_batches_are_taken_ahead(tmp_path):
    world = World(tmp_path, batches(8), every=3, ahead=3)
    world.store.keep = 9
    world.run()
    for saved in world.saved:
        value = json.loads((saved.checkpoint.path / "sum.json").read_text())
        assert value == sum(range(saved.progress.step * SIZE))
        assert saved.progress.positions == {0: Position(saved.progress.step * SIZE)}


def test_nothing_new_writes_nothing(tmp_path):
    World(tmp_path, batches(3)).run()
    again = World(tmp_path, batches(3))
    again.run()
    assert again.saved == []


def test_a_model_that_diverged_is_neither_published_nor_saved(tmp_path):
    world = World(tmp_path, batches(8), every=2, diverge_at=5)
    with pytest.raises(UserError, match="batch 5 is nan"):
        world.run()
    world.saver.close()
    assert world.store.latest().progress.step in (2, 4)
    assert ("publish", 4) not in world.events


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_boundary_is_acted_on_before_its_batch_with_nothing_under_way(tmp_path, ahead, every):
    world = World(tmp_path, batches(9), every=every, ahead=ahead, boundary_ms=3)
    progress = world.run()
    # Batch i holds the event time i: those of 3 and 6 are the first beyond a boundary.
    before = {b: sum(range(b * SIZE)) for b in (3, 6)}
    assert world.loop.boundary.seen == [([b], before[b], 0, b * SIZE) for b in (3, 6)]
    assert world.sum == sum(range(9 * SIZE)) and progress.step == 9
    assert [e[1] for e in world.events if e[0] == "publish"] == list(range(9))


def test_a_batch_may_cross_several_boundaries_at_once(tmp_path):
    items = batches(2) + batches(9, start=8)
    world = World(tmp_path, items, boundary_ms=3)
    assert world.run().marks == {"period": 6}
    assert [over for over, *_ in world.loop.boundary.seen] == [[3, 6]]


def test_a_checkpoint_says_which_boundaries_were_passed(tmp_path):
    world = World(tmp_path, batches(8), every=2, boundary_ms=3)
    world.store.keep = 9
    world.run()
    told = {s.progress.step: verify(s.checkpoint.path).progress.marks for s in world.saved}
    for step, marks in told.items():
        passed = (step - 1) // 3 * 3  # the newest batch learnt holds the event time step - 1
        assert marks == ({"period": passed} if passed else {})
    assert told[8] == {"period": 6}


def test_a_checkpoint_says_what_is_marked_when_it_is_taken(tmp_path):
    world = World(tmp_path, batches(7), every=2, boundary_ms=3, marking=True)
    world.store.keep = 9
    world.run()
    for saved in world.saved:
        marks = verify(saved.checkpoint.path).progress.marks
        assert marks["taken at"] == saved.progress.step
    assert marks == {"taken at": 7, "period": 6}


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("stop_after", range(1, 9))
def test_stopping_around_a_boundary_acts_on_it_once(tmp_path, stop_after, ahead):
    first = World(tmp_path, batches(8), stop_after=stop_after, ahead=ahead, boundary_ms=3)
    first.run()
    second = World(tmp_path, batches(8), ahead=ahead, boundary_ms=3)
    second.run()
    seen = first.loop.boundary.seen + second.loop.boundary.seen
    assert [over for over, *_ in seen] == [[3], [6]]
    assert [before for _, before, *_ in seen] == [sum(range(3 * SIZE)), sum(range(6 * SIZE))]
    assert second.sum == sum(range(8 * SIZE))


def test_a_crash_after_a_boundary_repeats_it_from_the_same_state(tmp_path):
    crashed = World(tmp_path, batches(8), every=2, diverge_at=4, boundary_ms=3)
    with pytest.raises(UserError, match="batch 4 is nan"):
        crashed.run()
    crashed.saver.close()
    again = World(tmp_path, batches(8), every=2, boundary_ms=3)
    again.run()
    assert crashed.loop.boundary.seen == again.loop.boundary.seen[:1]
