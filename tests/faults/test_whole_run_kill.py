"""kill -9 of every process of a whole run at random moments: the end is as without."""

from __future__ import annotations

import numpy as np
import pytest
from hand_down_support import Ids, send_market
from tpm_support import sent_by
from trainer_support import assert_same_state, fresh_topics, predictions_of
from whole_run import LEVELS, VICTIMS, WholeRun, random_plan

from streaming.topics import TopicsConfig
from trainers.checkpoint import verify

KILLS = 3  # of each process in a run
SLOW_RUNS = 20


@pytest.fixture(scope="module")
def log(mortal_kafka) -> tuple[TopicsConfig, Ids]:
    """The topics of a market of eight days, and what is in them."""
    topics = fresh_topics()
    return topics, send_market(mortal_kafka.config, topics)


@pytest.fixture(scope="module")
def make_run(nursery, mortal_kafka, log, tmp_path_factory):
    def make(name: str) -> WholeRun:
        folder, own = tmp_path_factory.mktemp(name), fresh_topics(log[0])
        return WholeRun(nursery, mortal_kafka, own, folder)

    return make


@pytest.fixture(scope="module")
def undisturbed_run(make_run) -> WholeRun:
    run = make_run("undisturbed-run")
    run.run()
    return run


def hand_downs_of(run: WholeRun) -> dict[str, bytes]:
    paths = (run.run_dir / "handdowns" / "cpm").glob("[0-9]*/manifest.json")
    return {verify(path.parent).path.name: path.read_bytes() for path in paths}


def under_fire(make_run, undisturbed: WholeRun, ids: Ids, seed: int) -> None:
    run = make_run(f"fire-{seed}")
    run.run(random_plan(np.random.default_rng(seed), undisturbed.last_steps(), KILLS))
    assert all(run.killed[victim] for victim in VICTIMS), run.killed
    for level in LEVELS:
        assert not list((run.run_dir / "checkpoints" / level).glob("damaged-*"))
        progress = run.newest(level).progress
        assert progress.impressions == len(ids["ad" if level == "actr" else "natural"])
    found, expected = (predictions_of(r.kafka, r.topics) for r in (run, undisturbed))
    assert found.impression_N.tolist() == ids["ad"], "every ad was predicted once"
    # More than that: nothing tells this run from one that nobody disturbed.
    assert found.bits() == expected.bits()
    assert sent_by(run.kafka, run.topics)[0] == sent_by(undisturbed.kafka, undisturbed.topics)[0]
    assert run.histories() == undisturbed.histories()
    assert hand_downs_of(run) == hand_downs_of(undisturbed)
    for level in LEVELS:
        assert_same_state(run.newest(level), undisturbed.newest(level))


@pytest.mark.timeout(400)
def test_kills_of_every_process_leave_no_trace(make_run, undisturbed_run, log):
    under_fire(make_run, undisturbed_run, log[1], seed=0)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(1, SLOW_RUNS + 1))
def test_so_do_twenty_runs(make_run, undisturbed_run, log, seed):
    under_fire(make_run, undisturbed_run, log[1], seed)
