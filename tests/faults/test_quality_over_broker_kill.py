"""The follower of predictions goes on by itself when the broker is back."""

import time

import numpy as np
import pyarrow as pa
import pytest

from monitoring.quality import QualityFollower
from streaming.embedded_kafka import EmbeddedKafka
from streaming.impressions import Batch, ImpressionSchema, Position, SourceRows
from streaming.predictions import encode_predictions
from streaming.topic_admin import create_topics
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter

SCHEMA, TOPICS = ImpressionSchema(), TopicsConfig(partitions=1)


def publish(kafka, first, n=100):
    ids = np.arange(first, first + n)
    columns = dict.fromkeys(("impression_id", "event_time", "user_id", "item_id"), ids)
    rows = pa.record_batch({**columns, "click": (ids % 2).astype(np.int8)})
    source = SourceRows(np.zeros(n, np.int32), ids, np.zeros(n, np.int32))
    batch = Batch(rows, source, {0: Position(int(ids[-1]) + 1)}, int(ids[-1]))
    records = encode_predictions(
        batch, np.full(n, 0.5, np.float32), 1, TOPICS.ad, schema=SCHEMA, level="actr"
    )
    writer = RecordWriter(kafka)
    for partition, value, headers in records:
        writer.send(TOPICS.predictions_of("actr"), value, headers=headers, partition=partition)
    writer.flush()
    writer.close()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.timeout(180)
def test_nothing_is_missed_or_counted_twice(tmp_path):
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        create_topics(broker.config, TOPICS, levels=("actr",))
        publish(broker.config, 0)
        follower = QualityFollower(broker.config, TOPICS, "actr")
        follower.start()
        try:
            wait_for(lambda: follower.impressions == 100)
            broker.kill()
            broker.restart()
            publish(broker.config, 100)
            wait_for(lambda: follower.impressions == 200)
            assert follower.repeated == 0
        finally:
            follower.close()
