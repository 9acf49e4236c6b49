"""Hand-downs from CPM to A-CTR, both real trainers on a real Kafka."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hand_down_support import (
    DAY,
    HAND_DOWN_SETTINGS,
    HANDED_DOWN,
    TAKEN_OVER,
    Computed,
    announced,
    compute,
    configuration,
    send_market,
    times,
    told,
)
from nursery_support import Life
from replay_support import MARKET
from trainer_support import (
    Home,
    assert_same_state,
    fresh_topics,
    predictions_of,
    records_of,
    state_of,
    wait_until,
)

from streaming.impressions import ImpressionSchema
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.checkpoint import Checkpoint, verify
from trainers.hand_down import CLOSED, HANDED, HandDown
from trainers.state import write_state

BOUNDARIES = [MARKET.start_ms + DAY * day for day in range(1, MARKET.days)]
NEVER = 100_000  # batches to a checkpoint, in a log that is shorter
KINDS = {"delta": "delta", "reinitialize": "full"}


@pytest.fixture(scope="module")
def log_topics(kafka):
    """A market of eight days in the topics of both domains."""
    topics = fresh_topics()
    send_market(kafka, topics)
    return topics


@pytest.fixture(scope="module")
def make_home(nursery, kafka, log_topics, tmp_path_factory):
    def make(level: str, transfer: str, beside: Home | None = None, more: str = "") -> Home:
        topics = fresh_topics(log_topics) if beside is None else beside.topics
        settings = HAND_DOWN_SETTINGS.format(transfer=transfer) + more
        return Home(nursery, kafka, topics, tmp_path_factory.mktemp(level), settings, level)

    return make


@dataclass(frozen=True)
class Run:
    """CPM and A-CTR that ran beside each other, undisturbed."""

    transfer: str
    cpm: Home
    actr: Home
    computed: Computed
    computed_at: Path  # its state, written as checkpoints are

    def hand_downs(self) -> dict[str, bytes]:
        """Of every hand-down, the manifest: checksums of all files, and how far CPM was."""
        return manifests(self.cpm)


def manifests(cpm: Home) -> dict[str, bytes]:
    paths = (cpm.run_dir / "handdowns" / "cpm").glob("[0-9]*/manifest.json")
    return {path.parent.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module", params=KINDS)
def run(request, make_home, tmp_path_factory) -> Run:
    """A-CTR was there first, and waited for CPM."""
    actr = make_home("actr", request.param)
    cpm = make_home("cpm", request.param, beside=actr)
    with ExitStack() as stack:
        taker = actr.live()
        stack.callback(taker.signal, signal.SIGKILL)
        cpm.finish()
        assert taker.end() == 0, taker.said()
    folder = tmp_path_factory.mktemp("computed")
    computed = compute(configuration(actr), folder)
    path = folder / "state"
    path.mkdir()
    write_state(computed.learner.snapshot(), path)
    return Run(request.param, cpm, actr, computed, path)


# -- beside each other -------------------------------------------------------------------


def test_cpm_hands_down_at_the_end_of_every_day(run):
    begin, *others = announced(run.cpm)
    assert begin == HandDown(BOUNDARIES[0] - DAY, "begin")
    assert [h.boundary for h in others] == BOUNDARIES
    assert [h.since for h in others] == [0, *BOUNDARIES[:-1]]
    assert {h.kind for h in others} == {KINDS[run.transfer]}
    assert [int(moment[8:10]) for moment in times(told(run.cpm), HANDED_DOWN)] == [*range(2, 9)]
    for hand_down in others:
        progress = verify(Path(hand_down.location)).progress
        assert progress.watermark == hand_down.watermark < hand_down.boundary
        assert progress.step == hand_down.version


def test_a_ctr_takes_each_over_once_before_the_batch_that_lies_behind_it(run):
    assert [int(m[8:10]) for m in times(told(run.actr), TAKEN_OVER)] == [*range(2, 9)]
    assert list(run.computed.taken) == BOUNDARIES
    marks = {CLOSED: BOUNDARIES[-1], HANDED: BOUNDARIES[-1]}
    assert run.actr.newest().progress.marks == marks
    found = predictions_of(run.actr.kafka, run.actr.topics)
    expected = run.computed.probability
    assert found.impression_N.tolist() == sorted(expected)
    expected_N = np.array([expected[i] for i in found.impression_N.tolist()], np.float32)
    assert found.probability_N.tobytes() == expected_N.tobytes()


def test_what_a_ctr_becomes_is_what_the_pure_functions_make_of_it(run):
    found = state_of(run.actr.newest())
    expected = state_of(Checkpoint(run.computed_at, run.actr.newest().progress))
    compared = {name for name in found if not name.startswith("/window-")}
    assert compared == expected.keys()
    assert not [name for name in sorted(compared) if found[name] != expected[name]]


# -- killed ------------------------------------------------------------------------------


class Held:
    """CPM's announcements, which reach A-CTR one by one."""

    def __init__(self, run: Run, actr: Home) -> None:
        records = records_of(run.cpm.kafka, run.cpm.topics.models_of("cpm"))
        self._left = [record for record in records if record.key.startswith(b"cpm/")]
        self._home = actr
        create_topics(actr.kafka, actr.topics)

    def release(self, count: int) -> None:
        with RecordWriter(self._home.kafka) as writer:
            for record in self._left[:count]:
                topic = self._home.topics.models_of("cpm")
                writer.send(topic, record.value, key=record.key, partition=record.partition)
            writer.flush(30)
        self._left = self._left[count:]

    def release_all(self) -> None:
        self.release(len(self._left))


def waits_for(home: Home, boundary: int) -> bool:
    """Whether its present life has learnt all that may be learnt without that hand-down."""
    day = np.datetime64(boundary, "ms").item().strftime("%Y-%m-%d")
    path = home.run_dir / f"life-{home.lives}.log.told"
    return path.exists() and f"waiting for CPM's hand-down of {day}" in path.read_text()


def kill(life: Life) -> None:
    life.signal(signal.SIGKILL)
    assert life.end() == -signal.SIGKILL, life.said()


def every(batches: int) -> tuple[str, str]:
    return "--set", f"actr.checkpoint.every_batches={batches}"


def test_a_ctr_that_is_killed_takes_nothing_over_twice(run, make_home):
    actr = make_home("actr", run.transfer)
    held = Held(run, actr)
    held.release(2)  # where CPM began, and the first
    # No checkpoint says that it was taken over: the next life does it again.
    life = actr.live(*every(NEVER))
    wait_until(lambda: waits_for(actr, BOUNDARIES[1]), 60, "the first hand-down")
    kill(life)
    assert not actr.steps() and len(times(told(actr), TAKEN_OVER)) == 1
    # Now a checkpoint says it, of the batches between two hand-downs.
    held.release(2)
    life = actr.live(*every(1))
    wait_until(lambda: waits_for(actr, BOUNDARIES[3]), 60, "the third hand-down")
    last = run.computed.taken[BOUNDARIES[3]]
    wait_until(lambda: actr.newest_step() == last, 60, "a checkpoint of the last batch before it")
    kill(life)
    assert actr.newest().progress.marks[HANDED] == BOUNDARIES[2]
    assert len(times(told(actr), TAKEN_OVER)) == 1 + 3
    held.release_all()
    actr.finish()
    days = [int(moment[8:10]) for moment in times(told(actr), TAKEN_OVER)]
    assert days == [2, *(2, 3, 4), *(5, 6, 7, 8)]
    assert_same_end(actr, run)


def test_a_ctr_is_killed_as_soon_as_it_has_taken_over(run, make_home):
    actr = make_home("actr", run.transfer)
    Held(run, actr).release_all()
    for count in (1, 3, 5):
        life = actr.live(*every(1))
        wait_until(lambda: len(set(times(told(actr), TAKEN_OVER))) >= count, 60, "it", 0.0005)  # noqa: B023
        kill(life)
    actr.finish()
    assert_same_end(actr, run)


def assert_same_end(actr: Home, run: Run) -> None:
    assert_same_state(actr.newest(), run.actr.newest())
    found, expected = (predictions_of(home.kafka, home.topics) for home in (actr, run.actr))
    assert found.bits() == expected.bits()
    assert found.repeated > 0, "a kill made it predict again"


def test_cpm_that_is_killed_hands_down_the_same_again(run, make_home):
    cpm = make_home("cpm", run.transfer)
    for days, batches in ((2, NEVER), (3, 1), (5, 1)):
        life = cpm.live("--set", f"cpm.checkpoint.every_batches={batches}")
        wait_until(lambda: len(set(times(told(cpm), HANDED_DOWN))) >= days, 60, "it", 0.0005)  # noqa: B023
        kill(life)
    cpm.finish()
    assert manifests(cpm) == run.hand_downs()
    repeated = announced(cpm)
    found = {h.boundary: replace(h, location="") for h in repeated}
    assert list(found.values()) == [replace(h, location="") for h in announced(run.cpm)]
    assert len(repeated) > len(found), "a kill made it hand down again"
    assert_same_state(cpm.newest(), run.cpm.newest())


# -- refused -----------------------------------------------------------------------------


def features_but(missing: str) -> str:
    """The market's features as a section of a configuration file, ``missing`` left out."""
    kept = [f for f in ImpressionSchema().features if f.name != missing]
    return f"[impressions]\nfeatures = [{', '.join(map(_inline, kept))}]\n"


def _inline(feature) -> str:
    fields = feature.model_dump(exclude_defaults=True).items()
    texts = [f"{key} = {str(v).lower() if v is True else repr(v)}" for key, v in fields]
    return "{ " + ", ".join(texts) + " }"


@pytest.mark.parametrize("transfer", KINDS)
def test_a_ctr_of_other_features_refuses_and_names_them(make_home, transfer):
    cpm = make_home("cpm", transfer, more=features_but("position"))
    cpm.finish()
    actr = make_home("actr", transfer, beside=cpm)
    life = actr.live()
    assert life.end() == 2
    (line,) = life.complaints()
    assert line.startswith("ecdctr: what is handed down is of another model")
    assert "feature position: none there, categorical in table position here" in line
    assert not times(told(actr), TAKEN_OVER)
