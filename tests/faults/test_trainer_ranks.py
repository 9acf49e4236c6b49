"""Two ranks as real processes: each impression once, and a checkpoint goes both ways."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
from tests_support import ROOT, environ
from trainer_support import (
    BATCH,
    SETTINGS,
    Home,
    known_ids,
    predictions_of,
    wait_until,
    write_impressions,
)

from streaming.writer import RecordWriter

ROOMY = SETTINGS.replace("rows = 256", "rows = 4096")  # nobody is evicted
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture
def home(nursery, mortal_kafka, own_topics, tmp_path) -> Home:
    return Home(nursery, mortal_kafka.config, own_topics, tmp_path, ROOMY)


class Log:
    """A log that grows between two lives."""

    def __init__(self, home: Home) -> None:
        self.kafka, self.topic, self.end = home.kafka, home.topics.ad, 0

    def grow(self, count: int, **more: tuple[int, ...]) -> None:
        with RecordWriter(self.kafka) as writer:
            self.end = write_impressions(writer, self.topic, self.end, count, **more)


def assert_learnt(home: Home, log: Log, ranks: int, before: dict[str, set[int]]) -> dict:
    """All of ``log`` was learnt, and no id that was known is forgotten; the ids known now."""
    assert home.newest().progress.impressions == log.end
    assert home.newest().progress.world_size == ranks
    ids = known_ids(home.newest())
    for table, known in before.items():
        assert known and known <= ids[table]
    return ids


@pytest.mark.timeout(180)
def test_two_ranks_then_one_then_two(home):
    log = Log(home)
    log.grow(12 * BATCH + 10)
    result = subprocess.run(
        [*TORCHRUN, "-m", "cli", *home.arguments()],
        env=environ(OMP_NUM_THREADS="1"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    ids = assert_learnt(home, log, 2, {})
    log.grow(300)
    home.finish()
    ids = assert_learnt(home, log, 1, ids)
    # Only rank 0 has something to read: what rank 1 says of its partitions must not count.
    log.grow(300, partitions=(0, 2))
    for life in home.live_ranks(2):
        assert life.end(60) == 0 and not life.complaints(), life.said()
    ids = assert_learnt(home, log, 2, ids)
    log.grow(100)
    home.finish()
    assert_learnt(home, log, 1, ids)
    found = predictions_of(home.kafka, home.topics)
    assert found.impression_N.tolist() == list(range(log.end)) and found.repeated == 0


@pytest.mark.timeout(120)
def test_a_rank_is_killed(home):
    """The other one ends by itself, in one line; together they go on."""
    log = Log(home)
    log.grow(40 * BATCH)
    lives = home.live_ranks(2)
    wait_until(lambda: home.newest_step() >= 9, 60, "some checkpoints")
    lives[1].signal(signal.SIGKILL)
    assert lives[0].end(60) == 2, lives[0].said()
    assert lives[0].complaints()[-1].startswith("ecdctr: rank 0 lost another rank")
    assert "Traceback" not in lives[0].said()
    for life in home.live_ranks(2):
        assert life.end(90) == 0 and not life.complaints(), life.said()
    assert home.newest().progress.impressions == log.end
    found = predictions_of(home.kafka, home.topics)
    assert np.array_equal(found.impression_N, np.arange(log.end))


@pytest.mark.timeout(120)
def test_ranks_stop_together(home):
    """A signal to one of them ends both, at the same step, with one checkpoint."""
    log = Log(home)
    log.grow(40 * BATCH)
    lives = home.live_ranks(2)
    wait_until(lambda: home.newest_step() >= 6, 60, "some checkpoints")
    lives[1].signal(signal.SIGTERM)
    for life in lives:
        assert life.end(30) == 0 and not life.complaints(), life.said()
    home.finish()
    found = predictions_of(home.kafka, home.topics)
    assert np.array_equal(found.impression_N, np.arange(log.end)) and found.repeated == 0
