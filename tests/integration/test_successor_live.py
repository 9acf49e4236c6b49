"""A whole model handed down to an A-CTR that goes on predicting, on a real Kafka."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_down_support import (
    DAY,
    HAND_DOWN_SETTINGS,
    TAKEN_OVER,
    Computed,
    batches_of,
    configuration,
    hand_downs,
    send_market,
    times,
    told,
)
from nursery_support import Life
from trainer_support import Home, fresh_topics, predictions_of, records_of, state_of, wait_until

from config import Config
from streaming.impressions import Batch, Position, Positions
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.checkpoint import Checkpoint
from trainers.hand_down import CLOSED, HANDED
from trainers.learner import Learner
from trainers.levels import level
from trainers.state import write_state

EACH = 2
SECONDS = 120  # for what takes a few, where others want the machine, too
pytestmark = pytest.mark.timeout(400)
NEVER = 100_000  # batches to a checkpoint, in a log that is shorter
SETTINGS = (
    HAND_DOWN_SETTINGS.format(transfer="reinitialize")
    .replace("batch_size = 32", "batch_size = 16")
    .replace("transfer_relearns = false", f'transfer_beside = "always"\ncatch_up_batches = {EACH}')
)
PREPARING = "preparing a successor from CPM's hand-down of "


@dataclass(frozen=True)
class Run:
    """CPM's hand-downs, and an A-CTR that took them over undisturbed."""

    actr: Home
    announcements: list[Any]
    batches: list[Batch]
    computed: Computed
    computed_at: Path  # its state, written as checkpoints are
    begun: dict[int, int]  # boundary, ms: A-CTR's batches when its preparation began


@pytest.fixture(scope="module")
def run(nursery, kafka, tmp_path_factory) -> Run:
    topics = fresh_topics()
    send_market(kafka, topics)
    cpm, actr = (
        Home(nursery, kafka, topics, tmp_path_factory.mktemp(name), SETTINGS, name)
        for name in ("cpm", "actr")
    )
    cpm.finish(SECONDS)
    announcements = list(records_of(kafka, topics.models_of("cpm")))
    actr.finish(SECONDS)
    config, folder = configuration(actr), tmp_path_factory.mktemp("computed")
    batches = batches_of(config, "actr")
    computed, begun = compute(config, folder, batches)
    (folder / "state").mkdir()
    write_state(computed.learner.snapshot(), folder / "state")
    return Run(actr, announcements, batches, computed, folder / "state", begun)


def compute(config: Config, folder: Path, batches: list[Batch]) -> tuple[Computed, dict[int, int]]:
    """The same by hand: a successor is CPM's model that has learnt all from its last window on."""
    of = level("actr", config)
    found, begun = Computed(Learner(of.config, of.schema)), {}
    waiting, watermark, preparing = list(hand_downs(config, folder)), 0, None
    for step, batch in enumerate(batches):
        time_B = batch.rows.column("event_time").to_numpy()
        begin = min(time_B[time_B >= watermark].tolist(), default=0)
        if preparing is None and waiting and waiting[0][0] <= begin:
            while waiting and waiting[0][0] <= begin:
                boundary, take = waiting.pop(0)
            begun[boundary] = step
            first = min(i for i in range(step) if batches[i].watermark >= watermark - DAY)
            preparing = boundary, take, first
        if preparing is not None:
            boundary, take, first = preparing
            if EACH * (step - begun[boundary] + 1) >= step - first:
                found.learner = Learner(of.config, of.schema)
                take(found.learner)
                for earlier in batches[first:step]:
                    found.learner.step(found.learner.to_batch(earlier.rows))
                found.taken[boundary], preparing = step, None
        probability_B, _ = found.learner.step(found.learner.to_batch(batch.rows))
        ids = batch.rows.column("impression_id").to_pylist()
        found.probability |= dict(zip(ids, np.asarray(probability_B).tolist(), strict=True))
        watermark = batch.watermark
    return found, begun


def test_the_old_one_predicts_until_its_successor_has_learnt_all_that_it_has(run):
    taken = run.computed.taken
    assert len(taken) == 7
    assert all(taken[boundary] >= step + 5 for boundary, step in run.begun.items())
    assert [int(moment[8:10]) for moment in times(told(run.actr), TAKEN_OVER)] == [*range(2, 9)]
    found, expected = predictions_of(run.actr.kafka, run.actr.topics), run.computed.probability
    assert found.impression_N.tolist() == sorted(expected)
    expected_N = np.array([expected[i] for i in found.impression_N.tolist()], np.float32)
    assert found.probability_N.tobytes() == expected_N.tobytes()
    assert run.actr.newest().progress.marks == {CLOSED: max(taken), HANDED: max(taken)}


def test_what_it_becomes_is_what_the_pure_functions_make_of_it(run):
    found = state_of(run.actr.newest())
    expected = state_of(Checkpoint(run.computed_at, run.actr.newest().progress))
    counts = ("steps_done", "admitted_total", "evicted_total")  # the process's own
    compared = [n for n in expected if not n.endswith(counts)]
    assert len(compared) > 50
    assert not [name for name in compared if found[name] != expected[name]]


# -- killed ------------------------------------------------------------------------------


class Fed:
    """An A-CTR whose log grows as the test wants it to, and to which CPM has handed all down."""

    def __init__(self, run: Run, nursery, folder: Path) -> None:
        self.kafka = run.actr.kafka
        topics = fresh_topics()
        create_topics(self.kafka, topics)
        self.home = Home(nursery, self.kafka, topics, folder, SETTINGS)
        self._left = list(records_of(self.kafka, run.actr.topics.ad))
        self._send(topics.models_of("cpm"), run.announcements)

    def feed(self, until: Positions | None = None) -> None:
        """What a batch that ends ``until`` needs, each partition's next record included."""
        due, left = [], []
        for record in self._left:
            end = Position(0) if until is None else until.get(record.partition, Position(0))
            (due if until is None or record.offset <= end.offset + 1 else left).append(record)
        self._left = left
        self._send(self.home.topics.ad, due)

    def _send(self, topic: str, records: list[Any]) -> None:
        with RecordWriter(self.kafka) as writer:
            for r in records:
                writer.send(topic, r.value, r.key, r.headers, r.partition, r.timestamp)
            writer.flush(30)


def kill(life: Life) -> None:
    life.signal(signal.SIGKILL)
    assert life.end() == -signal.SIGKILL, life.said()


def every(batches: int) -> tuple[str, str]:
    return "--set", f"actr.checkpoint.every_batches={batches}"


def prepared(home: Home) -> list[str]:
    return [line for line in told(home) if line.startswith(PREPARING)]


def test_killed_while_its_successor_is_prepared(run, nursery, tmp_path):
    boundary = min(run.begun)
    middle = (run.begun[boundary] + run.computed.taken[boundary]) // 2
    fed = Fed(run, nursery, tmp_path)
    home = fed.home
    fed.feed(run.batches[middle].positions)
    # No checkpoint says that it was begun: the next life does so again.
    life = home.live(*every(NEVER), until_end=False)
    wait_until(lambda: prepared(home), SECONDS, "a successor")
    kill(life)
    assert not home.steps()
    # The log goes no further than the middle of the preparation, and a checkpoint says so.
    life = home.live(*every(1), until_end=False)
    wait_until(lambda: home.newest_step() > middle, SECONDS, "a checkpoint of its preparation")
    kill(life)
    assert (home.newest().path / "successor.json").exists()
    assert not home.newest().progress.marks[HANDED] and not times(told(home), TAKEN_OVER)
    since = home.newest_step() - run.begun[boundary]
    fed.feed()
    home.finish(SECONDS)
    first, second, third, *_ = prepared(home)
    assert first == second and third == f"{first} and the {since} that were learnt since"
    assert_same_end(home, run)


def test_killed_as_it_begins_and_takes_over(run, nursery, tmp_path):
    fed = Fed(run, nursery, tmp_path)
    fed.feed()
    home = fed.home
    for seen, what in ((prepared, 2), (lambda h: times(told(h), TAKEN_OVER), 4), (prepared, 7)):
        life = home.live(*every(1))
        wait_until(lambda: len(set(seen(home))) >= what, SECONDS, "it", 0.0005)  # noqa: B023
        kill(life)
    home.finish(SECONDS)
    assert_same_end(home, run)


def assert_same_end(home: Home, run: Run) -> None:
    found, expected = state_of(home.newest()), state_of(run.actr.newest())
    ours, theirs = found.pop("progress"), expected.pop("progress")
    assert ours == replace(theirs, topic=ours.topic)
    assert not [n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)]
    predicted, wanted = (predictions_of(h.kafka, h.topics) for h in (home, run.actr))
    assert predicted.bits() == wanted.bits(), "every ad was predicted once"
