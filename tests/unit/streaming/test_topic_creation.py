"""Creating topics on a Kafka that goes away meanwhile."""

import pytest
from kafka.errors import InvalidReplicationFactorError, KafkaConnectionError

from errors import UserError
from streaming import topic_admin
from streaming.connection import KafkaConfig
from streaming.topic_admin import create_topics, topic_settings
from streaming.topics import TopicsConfig

TOPICS = TopicsConfig()


class Broker:
    """Goes away, or refuses, as often as it is told to, before topics are created."""

    def __init__(self, *failures):
        self.failures, self.topics = list(failures), {}

    def __call__(self, kafka):
        return self

    def list_topics(self):
        return list(self.topics)

    def create_topics(self, new):
        if self.failures:
            raise self.failures.pop(0)
        self.topics |= {name: settings["num_partitions"] for name, settings in new.items()}

    def wait_for_topics(self, names):
        if self.failures:
            raise self.failures.pop(0)

    def close(self):
        pass


@pytest.fixture
def patience(monkeypatch):
    """Makes a broker the one that is asked, and waiting for it short."""

    def made(broker, seconds):
        monkeypatch.setattr(topic_admin, "admin", broker)
        monkeypatch.setattr(topic_admin, "_RETRY_SECONDS", 0.0)
        monkeypatch.setattr(topic_admin, "CONNECT_SECONDS", seconds)
        return broker

    return made


@pytest.mark.parametrize("times", [1, 2, 3])
def test_one_that_goes_away_is_waited_for(patience, times):
    broker = patience(Broker(*[KafkaConnectionError("gone")] * times), 60.0)
    create_topics(KafkaConfig(), TOPICS)
    assert broker.topics.keys() == topic_settings(TOPICS).keys()
    assert broker.topics[TOPICS.control] == 1 and broker.topics[TOPICS.ad] == TOPICS.partitions


def test_but_not_for_ever(patience):
    broker = patience(Broker(*[KafkaConnectionError("gone")] * 1_000_000), 0.05)
    with pytest.raises(UserError, match="does not create the topics .*gone"):
        create_topics(KafkaConfig(), TOPICS)
    assert not broker.topics


def test_one_that_refuses_is_asked_once(patience):
    broker = patience(Broker(*[InvalidReplicationFactorError("3 of 1")] * 2), 60.0)
    with pytest.raises(UserError, match="3 of 1"):
        create_topics(KafkaConfig(), TOPICS)
    assert len(broker.failures) == 1
