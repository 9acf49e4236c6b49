import json
import re
import signal
import time
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from kafka import TopicPartition
from nursery_support import AS_IF_ALONE

from streaming.codec import decode
from streaming.impressions import ImpressionSchema
from streaming.kafka_clients import consumer
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_log import written
from streaming.partitioning import partition_of
from streaming.topic_admin import create_topics
from streaming.truth import Truth, truth_dir
from streaming.writer import RecordWriter

DAYS = 6
MARKET = {"users": 300, "natural_per_day": 60_000, "ads_per_day": 4_000}
DEADLINE_SECONDS = 120


@pytest.fixture
def simulate(nursery, kafka, topics, tmp_path):
    """Starts `ecdctr simulate` on the test's topics; what still runs at the end is killed."""
    running = []

    def start(*more, kafka=kafka):
        values = {f"market.{key}": value for key, value in MARKET.items()}
        values |= {f"topics.{key}": value for key, value in topics.model_dump().items()}
        settings = [part for key, v in values.items() for part in ("--set", f"{key}={v}")]
        places = ["--bootstrap-servers", kafka.bootstrap_servers, "--run-dir", str(tmp_path)]
        command, log = ["simulate", *places, *settings, *more], tmp_path / "simulate.log"
        running.append(nursery.start(command, log, log, AS_IF_ALONE))
        return running[-1]

    yield start
    for process in running:
        process.signal(signal.SIGKILL)
        process.end()


def ends(kafka, topic, partitions):
    with closing(consumer(kafka)) as reader:
        places = [TopicPartition(topic, p) for p in range(partitions)]
        return reader.end_offsets(places)


def records(kafka, topic, partitions):
    with closing(consumer(kafka, auto_offset_reset="earliest")) as reader:
        places = [TopicPartition(topic, p) for p in range(partitions)]
        reader.assign(places)
        end = reader.end_offsets(places)
        found = {p: [] for p in range(partitions)}
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(reader.position(p) < end[p] for p in places):
            assert time.monotonic() < deadline
            for place, batch in reader.poll(timeout_ms=500).items():
                found[place.partition] += batch
        return found


def rows(batch):
    schema = ImpressionSchema()
    parts = [decode(r.value, r.headers, r.timestamp, schema).rows for r in batch]
    return pa.Table.from_batches(parts, schema=schema.arrow).combine_chunks()


def until_written(kafka, topic, partitions, count, process):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while sum(ends(kafka, topic, partitions).values()) < count:
        assert process.status is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_whole(kafka, topics, days):
    """Every impression of the market is in the log once, in order, at its place."""
    slots = list(Market(MarketConfig(**MARKET, days=days)).days())
    for topic, domain in ((topics.natural, "natural"), (topics.ad, "ad")):
        whole = pa.Table.from_batches([getattr(s, domain) for s in slots])
        place = partition_of(whole["user_id"].to_numpy(), topics.partitions)
        for partition, batch in records(kafka, topic, topics.partitions).items():
            expected = whole.take(np.flatnonzero(place == partition)).combine_chunks()
            assert rows(batch).equals(expected), (topic, partition)
            assert all(abs(r.timestamp / 1000 - time.time()) < 3600 for r in batch)


def test_killed_again_and_again_it_sends_everything_once(kafka, topics, simulate, tmp_path):
    random = np.random.default_rng(5)
    total = MARKET["natural_per_day"] * DAYS // 256
    for share in np.sort(random.uniform(0.05, 0.8, 4)):
        process = simulate("--days", str(DAYS), "--rate", "80000")
        until_written(kafka, topics.natural, topics.partitions, int(total * share), process)
        process.signal(signal.SIGKILL)
        assert process.end() == -signal.SIGKILL
    assert simulate("--days", str(DAYS)).end(DEADLINE_SECONDS) == 0
    check_whole(kafka, topics, DAYS)
    truth = Truth(truth_dir(tmp_path))
    last = list(Market(MarketConfig(**MARKET, days=DAYS)).days(DAYS - 1))[0]
    ids = last.ad["impression_id"].to_numpy()
    assert np.array_equal(truth.lookup(ids), last.ad_probability)


def test_a_broker_that_dies_is_waited_for(mortal_kafka, topics, simulate):
    kafka = mortal_kafka.config
    process = simulate("--days", str(DAYS), "--rate", "80000", kafka=kafka)
    create_topics(kafka, topics, levels=("actr",))
    until_written(kafka, topics.natural, topics.partitions, 400, process)
    mortal_kafka.kill()
    mortal_kafka.restart()
    assert process.end(DEADLINE_SECONDS) == 0
    check_whole(kafka, topics, DAYS)


def test_sigterm_ends_it_cleanly_and_a_longer_market_goes_on(kafka, topics, simulate, tmp_path):
    process = simulate("--days", "2", "--rate", "2000")
    until_written(kafka, topics.ad, topics.partitions, 1, process)
    registered = json.loads((tmp_path / "processes" / "simulate.json").read_text())
    assert registered["pid"] == process.pid
    process.signal(signal.SIGTERM)
    assert process.end(DEADLINE_SECONDS) == 0
    assert not (tmp_path / "processes" / "simulate.json").exists()
    assert "stopped: " in (tmp_path / "simulate.log").read_text()
    assert simulate("--days", "3").end(DEADLINE_SECONDS) == 0
    check_whole(kafka, topics, 3)
    assert simulate("--days", "3").end(DEADLINE_SECONDS) == 0
    output = (tmp_path / "simulate.log").read_text()
    assert re.search(r"done: 0 natural, 0 ads, .* before$", output, re.MULTILINE)
    check_whole(kafka, topics, 3)


def test_topics_of_another_market_are_refused(kafka, topics, simulate, tmp_path):
    assert simulate("--days", "1", "--set", "market.natural_per_day=500").end(60) == 0
    assert simulate("--days", "1", "--seed", "9").end(60) == 2
    output = (tmp_path / "simulate.log").read_text()
    assert "holds another market" in output and "Traceback" not in output


def test_strangers_records_at_the_end_do_not_hide_how_far_it_got(kafka, topics, simulate):
    assert simulate("--days", "1").end(DEADLINE_SECONDS) == 0
    fingerprint = MarketConfig(**MARKET).fingerprint
    before = written(kafka, topics.ad, fingerprint)
    assert min(before.values()) > 0
    with RecordWriter(kafka) as writer:
        for _ in range(700):
            writer.send(topics.ad, b"{}", partition=0)
        writer.flush()
    assert written(kafka, topics.ad, fingerprint) == before
