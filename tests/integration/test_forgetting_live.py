"""Forgetting of live versions on a real Kafka: measured by a trainer, told by the monitor."""

import json
import signal

import pytest
from monitor_support import MonitorHome
from prometheus_client import CollectorRegistry
from trainer_support import SETTINGS, fresh_topics, predictions_of, records_of, write_impressions

from config import Config
from monitoring.recalled import Recalled
from settings import load
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.checkpoint import CheckpointStore
from trainers.held_back import held_back
from trainers.learner import Learner
from trainers.level_recall import LevelRecall
from trainers.levels import level
from trainers.process import train
from trainers.ranks import Ranks

IMPRESSIONS = 4_000  # seconds: four periods of 900 and a bit


@pytest.fixture(scope="module")
def config(kafka, tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("forgetting")
    (folder / "config.toml").write_text(SETTINGS)
    loaded = load(Config, folder / "config.toml", None, [f"run_dir={folder}"])
    topics = fresh_topics()
    create_topics(kafka, topics)
    with RecordWriter(kafka) as writer:
        write_impressions(writer, topics.ad, 0, IMPRESSIONS)
    return loaded.config.model_copy(update={"kafka": kafka, "topics": topics})


@pytest.fixture(scope="module")
def announced(config) -> list[dict]:
    """Of a run up to the log's end."""
    train(config, "actr", until_end=True)
    return announcements(config)


def announcements(config) -> list[dict]:
    records = records_of(config.kafka, config.topics.models_of("actr"))
    return [json.loads(record.value) for record in records]


def test_every_version_says_what_it_knows_of_past_periods(config, announced):
    assert all(0 <= len(one["recall"]["gauc"]) <= 4 for one in announced)
    first, last = announced[0]["recall"], announced[-1]["recall"]
    assert first == {"backward_transfer": None, "forgetting": None, "gauc": []}
    assert len(last["gauc"]) == 4 and min(last["gauc"]) > 0.3
    assert -1 < last["backward_transfer"] < 1 and 0 <= last["forgetting"] < 1
    periods = {one["watermark"] // config.actr.forgetting.period_ms for one in announced}
    scores = {tuple(one["recall"]["gauc"]) for one in announced}
    assert len(scores) > len(periods), "each version anew"


def test_what_is_held_back_is_published_like_all_others(config, announced):
    found = predictions_of(config.kafka, config.topics)
    assert found.impression_N.tolist() == list(range(IMPRESSIONS))
    out = held_back(found.impression_N, config.actr.forgetting.share).mean()
    assert 0.15 < out < 0.25


def test_the_last_checkpoint_knows_what_was_announced_with_it(config, announced):
    actr = level("actr", config)
    found = CheckpointStore(config.run_dir / "checkpoints" / "actr", keep=3).latest()
    learner = Learner(actr.config, actr.schema)
    learner.load(found.path)
    recall = LevelRecall(actr, learner, Ranks(), CollectorRegistry(), found)
    assert recall.recalled().plain() == announced[-1]["recall"]


def test_a_restart_announces_the_same_again(config, announced):
    train(config, "actr", until_end=True)
    again = announcements(config)[len(announced) :]
    assert [one["recall"] for one in again] == [announced[-1]["recall"]]


def test_the_monitor_tells_it_and_goes_on_telling_it_after_a_kill(
    nursery, config, announced, tmp_path
):
    home = MonitorHome(nursery, config.kafka, config.topics, tmp_path / "run").start()
    try:
        recalled = Recalled.of(announced[-1]["recall"])
        home.wait("published_version", announced[-1]["version"], level="actr")
        home.wait("predictions_total", IMPRESSIONS, level="actr")
        assert_told(home, recalled)
        assert "still knows of past periods" in home.fetch("/")
    finally:
        home.stop(signal.SIGTERM)
    home.start()
    try:
        home.wait("published_version", announced[-1]["version"], level="actr")
        assert_told(home, recalled)
    finally:
        home.stop(signal.SIGKILL)


def assert_told(home, recalled):
    assert home.value("forgetting_ratio", level="actr") == recalled.forgetting
    assert home.value("backward_transfer_ratio", level="actr") == recalled.backward_transfer
    for age, gauc in enumerate(recalled.gauc, 1):
        assert home.value("recalled_gauc_ratio", level="actr", age=str(age)) == gauc
    assert home.value("forgetting_ratio", level="cpm") is None
