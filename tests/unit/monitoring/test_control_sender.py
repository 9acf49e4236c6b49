"""Sending requests beside the monitor's work, with a writer that fails when told to."""

import threading

import pytest
from tests_support import eventually

from monitoring import control_sender
from monitoring.control_sender import ControlSender
from streaming.control import Request
from streaming.writer import KafkaWriteError

REQUESTS = [Request("period", at, "natural", "log_loss") for at in (1, 2, 3)]


class Writer:
    """Kafka that is there, refuses, or does not answer until it is interrupted."""

    def __init__(self):
        self.sent, self.refusals, self.opened = [], 0, 0
        self.answering, self.interrupted = threading.Event(), False
        self.answering.set()

    def __call__(self):
        self.opened += 1
        return self

    def send(self, topic, value, key, headers, partition):
        assert (topic, partition) == ("control", 0) and key == Request.decode(value).id.encode()
        self.sent.append(Request.decode(value))

    def flush(self):
        self.answering.wait(timeout=30)
        if self.interrupted or self.refusals:
            self.refusals -= 1
            raise KafkaWriteError("no")

    def interrupt(self):
        self.interrupted = True
        self.answering.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(control_sender, "_RETRY_SECONDS", 0.001)


def test_it_sends_in_order_and_waits_for_nobody():
    writer = Writer()
    with ControlSender(writer, "control") as sender:
        assert writer.opened == 0, "there is nothing to send"
        for request in REQUESTS:
            sender.send(request)
        eventually(lambda: not sender.waiting, 10, "all acknowledged")
    assert writer.sent == REQUESTS and writer.opened == 1


def test_what_was_refused_is_sent_again_before_the_others(caplog):
    writer = Writer()
    writer.refusals = 2
    with ControlSender(writer, "control") as sender:
        for request in REQUESTS:
            sender.send(request)
        eventually(lambda: not sender.waiting, 10, "all acknowledged")
    assert writer.sent == [REQUESTS[0]] * 2 + REQUESTS and writer.opened == 3
    assert caplog.text.count("not sent yet") == 2


def test_what_is_not_acknowledged_still_waits_and_holds_nobody_up_at_the_end():
    writer = Writer()
    writer.answering.clear()
    sender = ControlSender(writer, "control")
    sender.send(REQUESTS[0])
    eventually(lambda: writer.sent, 10, "something sent")
    assert sender.waiting == REQUESTS[:1]
    sender.close()
    assert sender.waiting == REQUESTS[:1]


def test_a_kafka_that_is_still_connected_to_holds_nobody_up_at_the_end(monkeypatch):
    monkeypatch.setattr(control_sender, "_CLOSE_SECONDS", 0.01)
    writer, connecting, answering = Writer(), threading.Event(), threading.Event()

    def slow():
        connecting.set()
        answering.wait()
        return writer()

    sender = ControlSender(slow, "control")
    sender.send(REQUESTS[0])
    assert connecting.wait(timeout=10)
    sender.close()
    answering.set()
    sender._thread.join(timeout=10)
    assert not sender._thread.is_alive() and not writer.sent
    assert sender.waiting == REQUESTS[:1]
