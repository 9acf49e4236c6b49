"""The same log, live through a real Kafka and all processes, and as a replay: same predictions."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_system import LiveSystem, send_log
from replay_support import Silent, small_config, small_log
from tests_support import eventually
from trainer_support import PARTITIONS, Predictions, fresh_topics

from config import Config
from streaming.topic_admin import create_topics
from trainers.levels import NAMES
from trainers.replay.log import RecordedLog
from trainers.replay.plan import VARIANTS, Variant, chosen, with_settings
from trainers.replay.results import Outcome
from trainers.replay.run import Replay

(FULL,) = chosen(["full"], ["history.period_hours=48"])
(PUBLISHED,) = chosen(["published"], ["history.period_hours=48"])
PUBLISHED = replace(PUBLISHED, settings=(*PUBLISHED.settings, ("cpm.window_hours", "48")))
(HISTORY_ONLY,) = chosen(["history-only"], ["history.period_hours=24"])
WITHOUT = VARIANTS["ads-only"]

HELD_BACK = 0.2
SETTINGS = (
    # TPM may be at the log's end before A-CTR has begun: nothing that was due may be given up.
    ("history.versions", "8"),
    # The log may stand still for long on a busy machine, and must not be read on without
    # the partition that has nothing yet.
    ("reader.idle_partition_seconds", "600"),
    # Fewer rows than users or items: ids are evicted, and changes wait for a row.
    ("actr.model.ids.rows", "32"),
    *((f"{level}.checkpoint.every_batches", "2") for level in NAMES),
    ("actr.forgetting.share", str(HELD_BACK)),
    ("actr.forgetting.period_hours", "48"),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> RecordedLog:
    path = small_log(tmp_path_factory.mktemp("log") / "market")
    return RecordedLog(path, small_config().impressions)


@pytest.fixture
def config(kafka) -> Config:
    """Of both, live and replay; topics are the test's own, and empty."""
    topics = fresh_topics()
    create_topics(kafka, topics)
    config = with_settings(small_config(held_back=HELD_BACK, partitions=PARTITIONS), SETTINGS)
    return config.model_copy(update={"kafka": kafka, "topics": topics})


@pytest.fixture
def live(nursery, config, tmp_path):
    """Starts a variant's processes."""
    with contextlib.ExitStack() as stack:

        def make(variant: Variant) -> LiveSystem:
            system = LiveSystem(nursery, variant.applied(config), tmp_path / "run")
            stack.callback(system.close)
            return system

        yield make


def replayed(log: RecordedLog, config: Config, variant: Variant, out: Path) -> Outcome:
    return Replay(log, config, out, Silent()).outcome(variant)


def assert_same(live: Predictions, outcome: Outcome) -> None:
    ids_N, probability_N = outcome.predictions.impression_id, outcome.predictions.probability
    order = np.argsort(ids_N)
    assert np.array_equal(live.impression_N, ids_N[order])
    np.testing.assert_allclose(live.probability_N, probability_N[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "variant", [FULL, HISTORY_ONLY, PUBLISHED], ids=["full", "history-only", "published"]
)
def test_live_predictions_are_the_replays(live, config, log, variant, tmp_path):
    send_log(log, config)
    system = live(variant)
    system.start("--align", until_end=True)
    found = system.finish()
    expected = replayed(log, config, variant, tmp_path / "replay")
    assert_same(found, expected)
    without = replayed(log, config, WITHOUT, tmp_path / "replay")
    worth_N = expected.predictions.probability - without.predictions.probability
    assert np.abs(worth_N).max() > 0.01, "nothing was handed down"


@pytest.mark.parametrize("variant", [FULL, PUBLISHED], ids=["full", "published"])
def test_so_they_are_when_trainers_are_killed_while_the_log_grows(
    live, config, log, variant, tmp_path
):
    half = 4
    send_log(log, config, last=half)
    system = live(variant)
    system.start("--align", until_end=False)
    eventually(lambda: system.steps("actr") >= 6, 60, "some of A-CTR's batches of half the log")
    system.kill_trainers()
    send_log(log, config, first=half)
    system.start("--align", until_end=True)
    found = system.finish()
    assert_same(found, replayed(log, config, variant, tmp_path / "replay"))
