"""Sends what drift asks for to the control topic, beside the monitor's own work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from errors import UserError
from streaming.control import Request
from streaming.small_topic import PARTITION
from streaming.writer import RecordWriter

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 2.0
_HEADERS = [("content-type", b"application/json")]


class ControlSender:
    """Requests go out one by one in a thread of its own, so a Kafka that is away holds nobody up.

    What Kafka has not acknowledged is in :attr:`waiting`: a checkpoint has to hold it. One that
    was sent and not acknowledged may go out twice; whoever reads it obeys once.

    Args:
        open_writer: called when there is something to send, and again after a failure.
    """

    def __init__(self, open_writer: Callable[[], RecordWriter], topic: str) -> None:
        self._open, self._topic = open_writer, topic
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._writer: RecordWriter | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def send(self, request: Request) -> None:
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()

    @property
    def waiting(self) -> list[Request]:
        """Not acknowledged by Kafka yet, in order."""
        with self._changed:
            return list(self._waiting)

    def close(self) -> None:
        """Give up what is waiting: a checkpoint has it. Connecting to Kafka is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._writer is not None:
                self._writer.interrupt()
        self._thread.join(_CLOSE_SECONDS)

    def __enter__(self) -> ControlSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while self._await_request():
            try:
                with self._open() as writer:
                    self._send_on(writer)
            except UserError as error:
                self._pause(error)

    def _await_request(self) -> bool:
        """False: it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            return not self._stopping

    def _send_on(self, writer: RecordWriter) -> None:
        with self._changed:
            self._writer = writer
        while self._await_request():
            request = self.waiting[0]
            key = request.id.encode()
            writer.send(self._topic, request.encode(), key, _HEADERS, PARTITION)
            writer.flush()
            with self._changed:
                self._waiting.pop(0)
                self._changed.notify_all()

    def _pause(self, error: UserError) -> None:
        with self._changed:
            if not self._stopping:
                log.warning("what drift asks for is not sent yet: %s", error)
                self._changed.wait_for(lambda: self._stopping, _RETRY_SECONDS)
