"""The follower of historical embeddings against a real Kafka."""

import contextlib
import threading
import uuid

import numpy as np
import pytest
from log_support import own_topics
from tests_support import eventually

from embeddings.history import KINDS, Snapshot, bucket_of, empty_window, merge, publish
from embeddings.history_follower import HistoryFollower
from embeddings.history_records import encode_window, record_key, window_headers
from embeddings.history_settings import HistoryConfig
from embeddings.history_store import HistoryStore
from streaming.topic_admin import create_topics, delete_topics
from streaming.writer import RecordWriter

CONFIG = HistoryConfig(buckets=2, periods=2, period_hours=24)
DAY = CONFIG.period_ms
DIM = 4
IDS = np.arange(40)
KEYS = [(kind, bucket) for kind in KINDS for bucket in range(CONFIG.buckets)]


def vectors(period, ids):
    return np.random.default_rng(period).normal(size=(100, DIM)).astype(np.float16)[ids]


class Market:
    """Windows of every bucket as periods pass, and the store that they should make."""

    def __init__(self):
        self.windows = {key: empty_window(CONFIG.window, DIM) for key in KEYS}
        self.store = HistoryStore.of(CONFIG, DIM)

    def pass_period(self, period, ids=IDS):
        for kind, bucket in KEYS:
            own = ids[bucket_of(ids, CONFIG.buckets) == bucket]
            snapshot = Snapshot(kind, bucket, period * DAY, own, vectors(period, own))
            self.windows[kind, bucket] = merge(self.windows[kind, bucket], snapshot)
            self.store.replace(kind, bucket, self.published(kind, bucket))

    def published(self, kind, bucket):
        return publish(self.windows[kind, bucket], CONFIG)

    def send(self, writer, topic, keys=KEYS):
        for kind, bucket in keys:
            window = self.published(kind, bucket)
            writer.send(
                topic,
                encode_window(kind, bucket, window),
                record_key(kind, bucket),
                window_headers(kind, bucket, window),
            )
        writer.flush(30)


def is_same(store, other):
    """Records are counted a moment before the store has them."""
    try:
        assert_same(store, other)
    except AssertionError:
        return False
    return True


def assert_same(store, other, ids=IDS):
    for kind in KINDS:
        for day in range(8):
            times = np.full(len(ids), day * DAY)
            for one, two in zip(
                store.lookup(kind, ids, times), other.lookup(kind, ids, times), strict=True
            ):
                np.testing.assert_array_equal(one, two)


@contextlib.contextmanager
def following(kafka, topic, file=None, **more):
    follower = HistoryFollower(kafka, topic, HistoryStore.of(CONFIG, DIM), file, **more)
    follower.start()
    try:
        yield follower
    finally:
        follower.close()


def later_topics():
    """Topics, not created yet, of which the one of histories is the test's own."""
    return own_topics().model_copy(update={"historical": f"historical.{uuid.uuid4().hex[:8]}"})


def never():
    return False


@pytest.fixture(scope="module")
def writer(kafka):
    with RecordWriter(kafka) as writer:
        yield writer


@pytest.fixture
def topic(topics):
    return topics.historical


def test_all_that_is_there_is_read_before_it_is_ready_and_the_rest_as_it_comes(
    kafka, topic, writer
):
    market = Market()
    for period in (1, 2, 3):
        market.pass_period(period)
        market.send(writer, topic)
    with following(kafka, topic) as follower:
        assert follower.wait_ready(never)
        assert_same(follower.store, market.store)
        assert follower.store.complete_period_end == 3 * DAY
        market.pass_period(4, IDS[::3])
        market.send(writer, topic)
        assert follower.wait_for(4 * DAY, never)
        assert_same(follower.store, market.store)
        assert (follower.records, follower.unreadable) == (16, 0)


def test_an_empty_topic_is_soon_ready(kafka, topic):
    with following(kafka, topic) as follower:
        assert follower.wait_ready(never)
        assert not follower.store.lookup("user", IDS, np.full(len(IDS), 9 * DAY))[1].any()


def test_tombstones_are_obeyed(kafka, topic, writer):
    market = Market()
    market.pass_period(1)
    market.send(writer, topic)
    with following(kafka, topic) as follower:
        follower.wait_ready(never)
        writer.send(topic, None, record_key("item", 1))
        writer.flush(30)
        eventually(lambda: follower.records == 5, 30, "the tombstone is read")
        market.store.remove("item", 1)
        own = IDS[bucket_of(IDS, CONFIG.buckets) == 1]
        eventually(
            lambda: not follower.store.lookup("item", own, np.full(len(own), 9 * DAY))[1].any(),
            30,
            "the bucket is gone",
        )
        assert_same(follower.store, market.store)


def test_a_tombstone_tells_the_period_that_its_bucket_had_reached(kafka, topic, writer):
    market = Market()
    market.pass_period(1)
    market.send(writer, topic, KEYS[:-1])
    kind, bucket = KEYS[-1]
    headers = window_headers(kind, bucket, market.published(kind, bucket))
    writer.send(topic, None, record_key(kind, bucket), headers)
    writer.flush(30)
    with following(kafka, topic) as follower:
        assert follower.wait_for(DAY, never)
        own = IDS[bucket_of(IDS, CONFIG.buckets) == bucket]
        assert not follower.store.lookup(kind, own, np.full(len(own), 9 * DAY))[1].any()


def test_the_wait_for_a_period_ends_with_its_last_bucket_though_nobody_was_seen(
    kafka, topic, writer
):
    market = Market()
    market.pass_period(1)
    market.send(writer, topic)
    market.pass_period(2, ids=IDS[:0])
    market.send(writer, topic, KEYS[:-1])
    answers = []
    with following(kafka, topic) as follower:
        assert follower.wait_for(1 * DAY, never)
        waiting = threading.Thread(target=lambda: answers.append(follower.wait_for(2 * DAY, never)))
        waiting.start()
        eventually(lambda: follower.records == 7, 30, "all but one bucket are read")
        assert answers == []
        market.send(writer, topic, KEYS[-1:])
        waiting.join(30)
        assert answers == [True]


def test_who_is_to_stop_does_not_wait(kafka, topic):
    with following(kafka, topic) as follower:
        assert not follower.wait_for(DAY, lambda: True)


def test_it_goes_on_from_its_local_copy(kafka, topic, writer, tmp_path):
    file, market = tmp_path / "history.npz", Market()
    market.pass_period(1)
    market.send(writer, topic)
    with following(kafka, topic, file) as follower:
        follower.wait_ready(never)
    market.pass_period(2)
    market.send(writer, topic, KEYS[:3])
    with following(kafka, topic, file) as follower:
        follower.wait_ready(never)
        assert follower.records == 3
        market.send(writer, topic, KEYS[3:])
        assert follower.wait_for(2 * DAY, never)
        assert_same(follower.store, market.store)


def test_a_copy_is_kept_while_it_runs(kafka, topic, writer, tmp_path):
    file, market = tmp_path / "history.npz", Market()
    market.pass_period(1)
    market.send(writer, topic)
    with following(kafka, topic, file, save_seconds=0) as follower:
        follower.wait_ready(never)
        eventually(file.exists, 30, "a local copy")
        other = HistoryStore.of(CONFIG, DIM)
        assert other.load(file)
        assert_same(other, market.store)


def test_a_topic_made_anew_is_read_anew(kafka, topics, writer, tmp_path):
    topic, file = topics.historical, tmp_path / "history.npz"
    old, market = Market(), Market()
    for period in (1, 2, 3):
        old.pass_period(period)
        old.send(writer, topic)
    with following(kafka, topic, file) as follower:
        follower.wait_ready(never)
    delete_topics(kafka, [topic])
    create_topics(kafka, topics, levels=("actr",))
    market.pass_period(1, IDS[:20])
    market.send(writer, topic)
    with following(kafka, topic, file) as follower:
        assert follower.wait_for(1 * DAY, never)
        eventually(lambda: is_same(follower.store, market.store), 30, "the new topic is told")
        assert follower.records == 4


def test_what_cannot_be_used_is_passed_over(kafka, topic, writer):
    market = Market()
    market.pass_period(1)
    market.send(writer, topic)
    good = encode_window("user", 0, market.published("user", 0))
    for key, value in [
        (b"user/0", b"nonsense"),
        (b"user/1", good),
        (b"user/9", None),
        (b"stranger", good),
        (b"", good),
        (b"user/0", encode_window("user", 0, empty_window(9, DIM))),
    ]:
        writer.send(topic, value, key)
    writer.flush(30)
    with following(kafka, topic) as follower:
        follower.wait_ready(never)
        assert (follower.records, follower.unreadable) == (10, 6)
        assert_same(follower.store, market.store)


def test_a_topic_that_comes_later_is_waited_for(kafka, writer):
    topics, market = later_topics(), Market()
    market.pass_period(1)
    with following(kafka, topics.historical) as follower:
        eventually(lambda: "no topic" in follower.problem, 30, "the problem is told")
        assert not follower.ready()
        create_topics(kafka, topics, levels=())
        market.send(writer, topics.historical)
        assert follower.wait_for(DAY, never)
        eventually(lambda: not follower.problem, 30, "all is well")


def test_a_broker_that_is_away_holds_nothing_up_for_good(mortal_kafka):
    topics, market, kafka = later_topics(), Market(), mortal_kafka.config
    create_topics(kafka, topics, levels=())
    market.pass_period(1)
    with RecordWriter(kafka) as writer, following(kafka, topics.historical) as follower:
        market.send(writer, topics.historical)
        assert follower.wait_for(DAY, never)
        mortal_kafka.kill()
        assert_same(follower.store, market.store)
        mortal_kafka.restart()
        market.pass_period(2)
        market.send(writer, topics.historical)
        assert follower.wait_for(2 * DAY, never)
        assert_same(follower.store, market.store)
