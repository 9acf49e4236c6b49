"""Held-back impressions in the trainers' loop, with a model that learns and crashes between."""

import threading

import numpy as np
import pytest
import torch
from recall_support import BATCHES, CONFIG, LEARNER, SIZE, stream, tensors
from synthetic_stream import SCHEMA

from streaming.impressions import Position
from trainers.boundaries import Boundaries
from trainers.checkpoint import CheckpointStore, Progress
from trainers.held_back import held_back
from trainers.learner import Learner, write_state
from trainers.loop import Loop
from trainers.ranks import Ranks
from trainers.recall import Recall
from trainers.recall_file import read_recall, write_recall
from trainers.saver import Saver


class Crash(Exception):
    pass


class Listed:
    """A reader over a list that may break down on the way."""

    def __init__(self, batches, crash_after):
        self._batches, self._left = batches, crash_after

    @property
    def finished(self):
        return not self._batches

    def next_batch(self, timeout):
        if self._left == 0:
            raise Crash
        self._left -= 1
        return self._batches.pop(0) if self._batches else None


class World:
    """One life over a folder that outlives it."""

    def __init__(self, folder, batches, crash_after=-1, every=3):
        self.store = CheckpointStore(folder, keep=BATCHES)
        self.store.prepare()
        self.learner, ranks, state, progress = Learner(LEARNER, SCHEMA), Ranks(), None, Progress()
        if (found := self.store.latest()) is not None:
            progress = found.progress
            self.learner.load(found.path)
            state = read_recall(found.path, ranks, SCHEMA)
        self.recall = Recall(self.learner, SCHEMA, CONFIG, ranks, state)
        self.published, self.versions = {}, {}
        self.saver = Saver(self.store, ranks, lambda: None, lambda saved: None)
        done = progress.positions.get(0, Position(0)).offset
        self.loop = Loop(
            reader=Listed(batches[done:], crash_after),
            learn=lambda taken: self.learner.steps(map(self.prepared, taken)),
            publish=self.publish,
            watcher=self,
            snapshot=self.snapshot,
            saver=self.saver,
            every_batches=every,
            progress=progress,
            ranks=ranks,
            stopping=threading.Event(),
            boundary=Boundaries([self.recall], ranks),
        )

    def prepared(self, batch):
        made = self.recall.hold_back(self.learner.to_batch(batch.rows), batch.rows)
        self.recall.learning(batch.rows, made)
        return made

    def publish(self, batch, probability_B, version):
        ids = batch.rows.column("impression_id").to_pylist()
        self.published |= dict(zip(ids, probability_B.tolist(), strict=True))

    def learnt(self, *what):
        pass

    turn = stalled = learnt

    def snapshot(self):
        snapshot, sampled = self.learner.snapshot(), self.recall.state()
        self.versions[self.loop.progress.step] = self.recall.recalled()

        def write(directory):
            checksums = write_state(snapshot, directory)
            write_recall(sampled, directory, 0, SCHEMA)
            return checksums

        return write

    def run(self):
        try:
            self.loop.run()
        finally:
            self.saver.close()
        return self


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return World(tmp_path_factory.mktemp("whole"), stream()).run()


def test_every_version_is_scored_and_every_impression_published(whole):
    assert len(whole.published) == SIZE * BATCHES
    assert sorted(whole.versions)[-1] == BATCHES and len(whole.versions) >= 3
    assert len(whole.versions[BATCHES].gauc) == 3
    assert np.isfinite(whole.versions[BATCHES].forgetting)


@pytest.mark.parametrize("crashes", [(2,), (5,), (7, 2), (4, 4, 3)])
def test_whatever_a_crash_interrupts_the_matrix_is_the_same_to_the_bit(whole, crashes, tmp_path):
    published = {}
    for crash_after in crashes:
        life = World(tmp_path, stream(), crash_after, every=2)
        with pytest.raises(Crash):
            life.run()
        published |= life.published
    last = World(tmp_path, stream(), every=2).run()
    np.testing.assert_array_equal(last.recall.retained, whole.recall.retained)
    assert last.versions[BATCHES] == whole.versions[BATCHES]
    assert published | last.published == whole.published
    one, other = tensors(last.learner), tensors(whole.learner)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_turned_clicks_of_what_is_held_back_change_no_prediction_and_no_weight(whole, tmp_path):
    turned = World(tmp_path, stream(turned=True)).run()
    assert turned.published == whole.published
    one, other = tensors(turned.learner), tensors(whole.learner)
    assert all(torch.equal(one[name], other[name]) for name in one)
    ids = np.array(list(whole.published))
    assert 0.4 < held_back(ids, CONFIG.share).mean() < 0.6
    assert turned.versions[BATCHES] != whole.versions[BATCHES]
