"""The follower of predictions goes on by itself when the broker is back."""

import numpy as np
import pyarrow as pa
import pytest
from tests_support import eventually
from trainer_support import fresh_topics

from monitoring.quality import QualityFollower
from streaming.impressions import Batch, ImpressionSchema, Position, SourceRows
from streaming.predictions import encode_predictions
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter

SCHEMA = ImpressionSchema()
SECONDS = 60


def publish(kafka, topics, first, n=100):
    ids = np.arange(first, first + n)
    columns = dict.fromkeys(("impression_id", "event_time", "user_id", "item_id"), ids)
    rows = pa.record_batch({**columns, "click": (ids % 2).astype(np.int8)})
    source = SourceRows(np.zeros(n, np.int32), ids, np.zeros(n, np.int32))
    batch = Batch(rows, source, {0: Position(int(ids[-1]) + 1)}, int(ids[-1]))
    records = encode_predictions(
        batch, np.full(n, 0.5, np.float32), 1, topics.ad, schema=SCHEMA, level="actr"
    )
    writer = RecordWriter(kafka)
    for partition, value, headers in records:
        writer.send(topics.predictions_of("actr"), value, headers=headers, partition=partition)
    writer.flush()
    writer.close()


@pytest.mark.timeout(180)
def test_nothing_is_missed_or_counted_twice(mortal_kafka):
    kafka, topics = mortal_kafka.config, fresh_topics()
    create_topics(kafka, topics, levels=("actr",))
    publish(kafka, topics, 0)
    follower = QualityFollower(kafka, topics, "actr")
    follower.start()
    try:
        eventually(lambda: follower.impressions == 100, SECONDS, "the first hundred")
        mortal_kafka.kill()
        mortal_kafka.restart()
        publish(kafka, topics, 100)
        eventually(lambda: follower.impressions == 200, SECONDS, "the second")
        assert follower.repeated == 0
    finally:
        follower.close()
