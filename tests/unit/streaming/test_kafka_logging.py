"""An absent broker is said once."""

from __future__ import annotations

import logging

import pytest

from streaming import kafka_logging
from streaming.kafka_logging import QUIET_SECONDS, SayOnce, relay


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(clock, caplog):
    """Sends a line of kafka-python's through the filter; returns what came out in all."""
    quiet = SayOnce(clock)

    def send(message: str, level: int = logging.ERROR, name: str = "kafka.net.connection"):
        record = logging.LogRecord(name, level, __file__, 1, message, None, None)
        if quiet.filter(record):
            logging.getLogger("passed").handle(record)
        return [r.getMessage() for r in caplog.records]

    return send


CONNECTED = "<KafkaConnection node_id=1>: Connected"


def test_a_thousand_failed_attempts_are_two_lines(said, clock):
    for _ in range(1_000):
        said("Connection failed: KafkaConnectionError: 111 ECONNREFUSED")
        said("Metadata refresh: failed KafkaConnectionError", name="kafka.cluster")
        said("Bootstrap bootstrap-0 not ready; waiting 0.11 secs", logging.WARNING)
        said("<KafkaTCPTransport [none]>: Error receiving network data closing socket")
        clock.now += 0.01
    lines = said(CONNECTED, logging.INFO)
    assert [line.split(";")[0] for line in lines] == [
        "the connection to Kafka is lost",
        "connected to Kafka again after 10.0 s",
    ]


def test_what_a_client_of_ours_left_as_it_closed_is_no_loss(said):
    assert said("Metadata refresh: failed Cancelled", name="kafka.cluster") == []
    assert said(CONNECTED, logging.INFO) == []


def test_flapping_is_not_said_more_than_once_a_minute(said, clock):
    for _ in range(100):
        said("socket disconnected")
        said(CONNECTED, logging.INFO)
    assert len(said(CONNECTED, logging.INFO)) == 2
    clock.now += QUIET_SECONDS
    assert len(said("socket disconnected")) == 3


def test_a_refusal_is_passed_on_once(said):
    refusal = "<KafkaConnection host=[a:1<-{}]>: Connection lost: SaslAuthenticationFailedError"
    assert said(refusal.format(4001)) == [refusal.format(4001)]
    assert said(refusal.format(4002)) == [refusal.format(4001)]


def test_other_errors_pass(said):
    assert said("record too large", name="kafka.producer.sender") == ["record too large"]


def test_two_processes_of_ours_say_it_once(clock, caplog, monkeypatch):
    """What the one that reads says comes to the trainer, which has clients of its own."""
    quiet = SayOnce(clock)
    monkeypatch.setattr(kafka_logging, "_filter", quiet)

    def theirs(message: str, name: str = kafka_logging.log.name) -> None:
        relay(logging.LogRecord(name, logging.WARNING, __file__, 1, message, None, None))

    theirs("the connection to Kafka is lost; waiting for it")
    quiet.lost()
    clock.now += 3
    quiet.connected()
    theirs("connected to Kafka again after 3.2 s")
    theirs("something else", "streaming.log_consumer")
    assert [r.getMessage() for r in caplog.records] == [
        "the connection to Kafka is lost; waiting for it",
        "connected to Kafka again after 3.0 s",
        "something else",
    ]
