"""A replay of what the topics hold: the live reader's batches, and a Parquet log's numbers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from live_system import send_log
from log_support import drain, ids
from replay_support import Silent, small_config, small_log
from trainer_support import PARTITIONS, fresh_topics

from config import Config
from errors import UserError
from streaming.codec import encode
from streaming.reader import LogReader
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.replay.log import DOMAINS, RecordedLog
from trainers.replay.plan import chosen
from trainers.replay.recording import Range, record
from trainers.replay.results import Outcome
from trainers.replay.run import Replay

DAY_MS = 86_400_000
DAYS = range(2, 6)
"""Of the market's eight, the ones that a range takes."""
(FULL,) = chosen(["full"], ["history.period_hours=48"])


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> RecordedLog:
    path = small_log(tmp_path_factory.mktemp("log") / "market")
    return RecordedLog(path, small_config().impressions)


def with_topics(kafka) -> Config:
    topics = fresh_topics()
    create_topics(kafka, topics)
    config = small_config(partitions=PARTITIONS)
    return config.model_copy(update={"kafka": kafka, "topics": topics})


@pytest.fixture(scope="module")
def config(kafka, log) -> Config:
    """Its topics hold the log."""
    config = with_topics(kafka)
    send_log(log, config)
    return config


def recorded(config: Config, wanted: Range, folder: Path) -> tuple[RecordedLog, list[str]]:
    told: list[str] = []
    path = record(config, wanted, folder, told.append)
    return RecordedLog(path, config.impressions), told


def some_days(log: RecordedLog, copy: Path) -> RecordedLog:
    """A log of the files of ``DAYS``."""
    for domain in DOMAINS:
        (copy / domain).mkdir(parents=True)
        for day in DAYS:
            shutil.copy(log.path / domain / f"{day:08d}.parquet", copy / domain)
    return RecordedLog(copy, log.schema)


def replayed(log: RecordedLog, config: Config, out: Path) -> Outcome:
    return Replay(log, config, out, Silent()).outcome(FULL)


def assert_same(one: Outcome, other: Outcome) -> None:
    for name, column in vars(one.predictions).items():
        assert np.array_equal(column, getattr(other.predictions, name)), name
    assert np.array_equal(one.retained, other.retained, equal_nan=True)


def test_all_of_the_topics_give_the_numbers_of_the_parquet_log(config, log, tmp_path):
    found, told = recorded(config, Range(), tmp_path / "logs")
    assert found.spans == log.spans
    assert told == [
        f"recorded {log.spans[domain].rows:,} impressions of {getattr(config.topics, domain)}"
        for domain in DOMAINS
    ]
    assert_same(replayed(found, config, tmp_path / "a"), replayed(log, config, tmp_path / "b"))


def test_a_range_gives_the_numbers_of_a_parquet_log_of_it(config, log, tmp_path):
    first = log.start // DAY_MS * DAY_MS
    wanted = Range(first + DAYS.start * DAY_MS, first + DAYS.stop * DAY_MS)
    found, _ = recorded(config, wanted, tmp_path / "logs")
    expected = some_days(log, tmp_path / "days")
    assert found.spans == expected.spans
    assert_same(replayed(found, config, tmp_path / "a"), replayed(expected, config, tmp_path / "b"))


def test_batches_are_the_live_readers_however_the_topics_were_filled(kafka, log, tmp_path):
    config = with_topics(kafka)
    with RecordWriter(kafka) as writer:
        writer.send(config.topics.ad, b"no impression", partition=1)
        for domain in DOMAINS:
            send_unevenly(writer, getattr(config.topics, domain), log.stretches((domain,)))
        writer.flush(30)
    found, told = recorded(config, Range(), tmp_path / "logs")
    assert told[1].endswith(", 1 unusable ones left out")
    assert found.spans == log.spans
    for domain in DOMAINS:
        live = live_batches(config, getattr(config.topics, domain), 64)
        replayed = found.batches((domain,), 64, PARTITIONS)
        assert [ids([batch]) for batch in replayed] == [ids([batch]) for batch in live]
        times = [batch.rows.column("event_time").to_numpy() for batch in live]
        assert any((np.diff(time_B) < 0).any() for time_B in times), "some are late"
    both = list(found.batches(DOMAINS, 64))
    assert sorted(ids(both)) == sorted(ids(log.batches(DOMAINS, 64)))


def send_unevenly(writer: RecordWriter, topic: str, stretches: Iterable[pa.RecordBatch]) -> None:
    """Dealt out by chance, in records of many hours."""
    rng = np.random.default_rng(5)
    for rows in stretches:
        of_row = rng.integers(PARTITIONS, size=len(rows))
        for partition in range(PARTITIONS):
            own = np.flatnonzero(of_row == partition)
            for part in np.split(own, np.sort(rng.choice(len(own), 3, replace=False))):
                if len(part):
                    writer.send(topic, encode(rows.take(pa.array(part))), partition=partition)


def live_batches(config: Config, topic: str, size: int) -> list:
    reader = LogReader(
        config.kafka,
        topic,
        config.impressions,
        batch_size=size,
        dead_letters=lambda letter: None,
        until_end=True,
    )
    with contextlib.closing(reader):
        return drain(reader)


def test_what_was_recorded_is_recorded_again_only_when_there_is_more(kafka, log, tmp_path):
    config = with_topics(kafka)
    with pytest.raises(UserError, match="holds no impressions at any time"):
        recorded(config, Range(), tmp_path)
    send_log(log, config, last=2)
    one, _ = recorded(config, Range(), tmp_path)
    again, told = recorded(config, Range(), tmp_path)
    assert again.identity == one.identity and told == [f"recorded before: {one.path}"]
    send_log(log, config, first=2)
    assert recorded(config, Range(), tmp_path)[0].spans == log.spans


def test_as_it_is_typed(config, tmp_path, nursery):
    arguments = [
        *("replay", "--from-kafka", "--since=2025-01-02", "--until=2025-01-07T00:00"),
        *("--variants=ads-only", f"--run-dir={tmp_path}"),
        *("--bootstrap-servers", config.kafka.bootstrap_servers),
        *(f"--set=topics.{k}={v}" for k, v in config.topics.model_dump().items()),
    ]
    life = nursery.start(arguments, tmp_path / "replay.log")
    assert life.end(120) == 0, life.said()
    assert "recorded 750 impressions" in life.said()
    assert (tmp_path / "replay" / "report.html").exists()
