"""Looking for a topic while Kafka comes and goes."""

import pytest
from kafka.errors import NodeNotReadyError, TopicAuthorizationFailedError

from errors import UserError
from streaming import log_consumer
from streaming.connection import KafkaConfig
from streaming.log_consumer import LogConsumer


class Client:
    """Answers the question for a topic's partitions with one answer after the other."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.closed = False

    def partitions_for_topic(self, topic):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def assign(self, names):
        self.assigned = names

    def close(self, **options):
        self.closed = True


@pytest.fixture
def looking(monkeypatch):
    """A consumer of a topic whose partitions are told like that; it looks for it once only."""
    monkeypatch.setattr(log_consumer, "TOPIC_SECONDS", -1.0)

    def made(*answers, stopping=lambda: False):
        client = Client(answers)
        monkeypatch.setattr(LogConsumer, "_consumer", lambda self: client)
        found = None
        try:
            found = LogConsumer(
                KafkaConfig(bootstrap_servers="h:1"), "t", 0, 1, skip_gaps=False, stopping=stopping
            )
        finally:
            assert client.closed is (found is None)
        return found, client

    return made


def test_a_topic_that_is_not_there_is_looked_for_in_vain(looking):
    with pytest.raises(UserError, match="no topic 't' at h:1"):
        looking(None)


def test_while_kafka_is_away_the_topic_is_not_missing(looking, monkeypatch):
    monkeypatch.setattr(log_consumer, "TOPIC_SECONDS", 60.0)
    found, client = looking(NodeNotReadyError(), NodeNotReadyError(), {1, 0})
    assert found.partitions == [0, 1] and not found.away
    assert [name.partition for name in client.assigned] == [0, 1]


def test_the_time_for_which_kafka_is_away_does_not_count(looking, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log_consumer, "TOPIC_SECONDS", 5.0)
    monkeypatch.setattr(log_consumer.time, "monotonic", lambda: now[0])

    def sleep(seconds):
        now[0] += 4.0

    monkeypatch.setattr(log_consumer.time, "sleep", sleep)
    found, _ = looking(*[NodeNotReadyError()] * 5, None, {0})
    assert found.partitions == [0]
    with pytest.raises(UserError, match="no topic"):
        looking(NodeNotReadyError(), None, None, {0})


def test_a_stop_ends_the_looking(looking):
    with pytest.raises(UserError):
        looking(NodeNotReadyError(), stopping=lambda: True)


def test_what_will_not_pass_is_told(looking):
    with pytest.raises(UserError, match="'t' at h:1 cannot be read: TopicAuthorizationFailed"):
        looking(TopicAuthorizationFailedError())
