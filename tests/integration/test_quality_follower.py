"""The follower of predictions against a real Kafka: each impression counts once."""

import numpy as np
import pyarrow as pa
import pytest

from monitoring import metrics
from monitoring.quality import QualityFollower, wait_until_read
from streaming.impressions import Batch, ImpressionSchema, Position, SourceRows
from streaming.predictions import encode_predictions
from streaming.writer import RecordWriter

DAY = 86_400_000
TOPIC = "impressions.ad"
SCHEMA = ImpressionSchema()


class Oracle:
    """Knows the truth as a function of the impression's id."""

    def lookup(self, impression_ids):
        return truth(impression_ids)


def truth(ids):
    return np.random.default_rng(9).random(100_000)[ids]


def batch(first, n):
    """Impressions first .. first + n over four source partitions, 10 a record."""
    ids = np.arange(first, first + n)
    rng = np.random.default_rng(first)
    columns = {
        "impression_id": ids,
        "event_time": ids * (DAY // 500),
        "click": (rng.random(n) < truth(ids)).astype(np.int8),
        "user_id": ids % 50,
        "item_id": ids % 7,
    }
    rows = pa.record_batch({name: pa.array(column) for name, column in columns.items()})
    source = SourceRows(
        partition=(ids % 4).astype(np.int32), offset=ids // 40, row=(ids // 4 % 10).astype(np.int32)
    )
    return Batch(rows, source, {p: Position(0) for p in range(4)}, int(columns["event_time"][-1]))


def publish(kafka, topics, made):
    probability = np.clip(truth(made.rows["impression_id"].to_numpy()) * 0.5 + 0.2, 0, 1)
    with_noise = probability + np.random.default_rng(1).normal(0, 0.05, len(made))
    writer = RecordWriter(kafka)
    for partition, value, headers in encode_predictions(
        made, with_noise.astype(np.float32), 1, TOPIC, schema=SCHEMA, level="actr"
    ):
        writer.send(topics.predictions_of("actr"), value, headers=headers, partition=partition)
    writer.flush()
    writer.close()
    return with_noise.astype(np.float32)


@pytest.fixture
def follower(kafka, topics):
    made = QualityFollower(kafka, topics, "actr", Oracle())
    yield made
    made.close()


def test_repeats_after_a_restart_are_counted_once(kafka, topics, follower):
    batches = [batch(first, 400) for first in range(0, 2000, 400)]
    for made in [*batches[:3], *batches[1:]]:  # back to the checkpoint after the third
        publish(kafka, topics, made)
    assert wait_until_read(follower, timeout=30)
    assert (follower.impressions, follower.repeated, follower.unreadable) == (2000, 800, 0)
    points = follower.points()
    assert [p.event_time // DAY for p in points] == [1, 2, 3, 4]
    assert points[-1].impressions == 1500
    assert points[-1].ceiling > 0.6
    assert follower.interval().low > 0.5


def test_agrees_with_the_metrics_of_the_same_rows(kafka, topics, follower):
    made = batch(0, 1000)
    probability = publish(kafka, topics, made)
    assert wait_until_read(follower, timeout=30)
    user, click = (made.rows[name].to_numpy() for name in ("user_id", "click"))
    assert follower.metrics().gauc == metrics.gauc(user, click, probability).weighted
    ids = made.rows["impression_id"].to_numpy()
    assert follower.points()[-1].ceiling == pytest.approx(
        metrics.gauc(user, click, truth(ids)).weighted
    )


def test_goes_on_with_what_comes_later_and_passes_over_junk(kafka, topics, follower):
    publish(kafka, topics, batch(0, 400))
    assert wait_until_read(follower, timeout=30)
    with RecordWriter(kafka) as writer:
        writer.send(topics.predictions_of("actr"), b"junk", partition=0)
        writer.flush()
    publish(kafka, topics, batch(400, 400))
    assert wait_until_read(follower, timeout=30)
    assert (follower.impressions, follower.unreadable) == (800, 1)


def test_a_reconnection_does_not_read_again(kafka, topics, follower):
    publish(kafka, topics, batch(0, 400))
    assert wait_until_read(follower, timeout=30)
    follower._disconnect()
    publish(kafka, topics, batch(400, 400))
    assert wait_until_read(follower, timeout=30)
    assert (follower.impressions, follower.repeated) == (800, 0)


def test_a_topic_that_is_not_there_yet_is_a_problem_not_an_error(kafka, topics):
    follower = QualityFollower(kafka, topics, "cpm")
    assert follower.poll() == 0
    assert "no topic predictions" in follower.problem
    assert not follower.caught_up()
    follower.close()


def test_a_thread_follows_and_ends(kafka, topics, follower):
    publish(kafka, topics, batch(0, 400))
    follower.start()
    deadline = 200
    while follower.impressions < 400 and deadline:
        follower._stop.wait(0.1)
        deadline -= 1
    assert follower.impressions == 400
    follower.close()
    assert follower._thread is not None
    assert not follower._thread.is_alive()
