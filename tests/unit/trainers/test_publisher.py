"""Predictions of several batches in one record, and when they go out."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from log_support import SCHEMA, impressions

from streaming.impressions import Batch, Position, SourceRows
from streaming.predictions import SourceFilter, appended_at, decode_predictions, source_range
from streaming.writer import KafkaWriteError
from trainers import publisher
from trainers.publisher import Publisher

LEVEL = SimpleNamespace(name="actr", topic="ads", predictions="predicted")


class Sent:
    def __init__(self):
        self.records = []

    def send(self, topic, value, key, headers):
        self.records.append((topic, key, value, headers))


def batch(number, size=4, partitions=2, appended=None):
    """Half of its impressions from each partition, one source record of each."""
    ids = np.arange(size) + number * size
    rows = impressions(ids)
    partition = (np.arange(size) % partitions).astype(np.int32)
    source = SourceRows(partition, np.full(size, number), np.arange(size, dtype=np.int32))
    return Batch(rows, source, {}, watermark=0, appended_at=appended)


@pytest.fixture
def made():
    sent = Sent()
    own = Publisher(sent, LEVEL, SCHEMA)
    yield own, sent
    own.close()


def flush(own):
    own.flush()
    own.settle()


def predict(own, number, **more):
    one = batch(number, **more)
    own.predictions(one, np.full(len(one), number / 10, np.float32), number)


def test_batches_go_out_together_one_record_a_partition(made):
    own, sent = made
    for number, appended in ((3, 900), (4, 700), (5, None)):
        predict(own, number, appended=appended)
    assert not sent.records
    flush(own)
    flush(own)
    assert [(topic, key) for topic, key, _, _ in sent.records] == [
        ("predicted", b"ads/0"), ("predicted", b"ads/1"),
    ]  # fmt: skip
    once = SourceFilter()
    for partition, (_, _, value, headers) in enumerate(sent.records):
        rows = decode_predictions(value).to_pydict()
        own_ids = [12 + partition, 14 + partition, 16 + partition, 18 + partition]
        assert rows["impression_id"] == [*own_ids, 20 + partition, 22 + partition]
        assert rows["model_version"] == [3, 3, 4, 4, 5, 5]
        assert rows["probability"] == pytest.approx([0.3, 0.3, 0.4, 0.4, 0.5, 0.5])
        ends = Position(3, partition), Position(5, 2 + partition)
        assert source_range(headers) == ("ads", partition, *ends)
        assert dict(headers)["model-version"] == b"5" and appended_at(headers) == 700
        assert once.of_record(value, headers).num_rows == 6
        assert once.of_record(value, headers).num_rows == 0


def test_the_next_group_knows_nothing_of_the_last(made):
    own, sent = made
    predict(own, 0, partitions=1, appended=5)
    flush(own)
    predict(own, 1, partitions=1)
    flush(own)
    assert [appended_at(headers) for *_, headers in sent.records] == [5, None]
    assert decode_predictions(sent.records[1][2]).num_rows == 4


def test_many_go_out_at_once_and_few_after_a_moment(made, monkeypatch):
    own, sent = made
    now = [100.0]
    monkeypatch.setattr(publisher.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(publisher, "GROUP_ROWS", 12)
    for number in range(2):
        predict(own, number, partitions=1)
    assert not sent.records
    predict(own, 2, partitions=1)
    own.settle()
    assert len(sent.records) == 1, "as many as go together"
    predict(own, 3, partitions=1)
    now[0] += publisher.GROUP_SECONDS
    predict(own, 4, partitions=1)
    own.settle()
    assert len(sent.records) == 2, "as long as one waits"
    assert decode_predictions(sent.records[1][2]).num_rows == 8


class Refusing(Sent):
    """Takes records only while it may."""

    def __init__(self):
        super().__init__()
        self.may = threading.Event()
        self.asked = threading.Event()

    def send(self, topic, value, key, headers):
        self.asked.set()
        assert self.may.wait(30)
        if topic == "refused":
            raise KafkaWriteError("no")
        super().send(topic, value, key, headers)


@pytest.fixture
def refusing():
    sent = Refusing()
    level = SimpleNamespace(**vars(LEVEL))
    own = Publisher(sent, level, SCHEMA)
    yield own, sent, level
    sent.may.set()
    own.close()


def test_learning_goes_on_while_predictions_are_sent_and_they_keep_their_order(refusing):
    own, sent, _ = refusing
    predict(own, 0, partitions=1)
    own.flush()  # returns, although nothing is sent yet
    assert sent.asked.wait(30) and not sent.records
    threading.Timer(0.05, sent.may.set).start()
    predict(own, 1, partitions=1)
    own.flush()  # waits for the ones before, or they could pile up
    assert len(sent.records) >= 1
    own.settle()
    versions = [dict(headers)["model-version"] for *_, headers in sent.records]
    assert versions == [b"0", b"1"]


def test_what_could_not_be_sent_is_said_at_the_next_flush_and_by_settle(refusing):
    own, sent, level = refusing
    level.predictions = "refused"
    sent.may.set()
    predict(own, 0, partitions=1)
    own.flush()
    for _ in range(2):
        with pytest.raises(KafkaWriteError, match="no"):
            own.settle()
    predict(own, 1, partitions=1)
    with pytest.raises(KafkaWriteError, match="no"):
        own.flush()
