"""The thread that takes in what a process of its own reads of the log."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from streaming.dead_letters import DeadLetter
from streaming.impressions import Batch, Positions
from streaming.kafka_logging import relay
from streaming.reader_process import Failure, Message, News, Order, ReaderProcess
from streaming.reader_thread import Finish, Shared

log = logging.getLogger(__name__)

_KILLED_SECONDS = 0.4
_Identity = tuple[str, int, int, str, str]  # as of `DeadLetter.identity`
_AHEAD = 2
"""Batches held here; the other process and the pipe hold more."""


class ReceiverThread(threading.Thread):
    """Stands in for a :class:`streaming.reader_thread.ReaderThread` that ``process`` runs.

    Where that process is killed, this thread reads on by itself from the last batch that
    arrived, which gives the same batches. Dead letters that were buried already are not buried
    again, and neither they nor good rows are counted twice, but for a record that was cut.
    """

    def __init__(
        self,
        process: ReaderProcess,
        order: Order,
        dead_letters: Callable[[DeadLetter], None],
        shared: Shared,
        finish: Finish | None,
    ) -> None:
        super().__init__(name=f"receiver of {order.what.topic}", daemon=True)
        self._process, self._order, self._rows = process, order, order.rows
        self._dead_letters, self._shared, self._finish = dead_letters, shared, finish
        self._reached: Positions | None = None
        self._watermark = order.what.watermark
        self._rows_taken = 0
        self._bad_passed = Counter[str]()
        self._ahead: dict[_Identity, DeadLetter] = {}
        """Letters of records that no batch has passed, without their bytes."""

    def run(self) -> None:
        try:
            try:
                self._receive()
            finally:
                status = self._process.wait()
            if not self._over():
                self._read_on(status)
        except BaseException as error:
            self._fail(error)

    def _read_on(self, status: str) -> None:
        log.warning(
            "the reader's process ended with status %s; the trainer reads on by itself", status
        )
        # What is read again is counted again.
        counts = self._shared.counts
        counts.impressions, counts.bad = self._rows_taken, self._bad_passed
        self._rest().thread(self._bury_the_rest, self._shared, self._finish).run()

    def _bury_the_rest(self, letter: DeadLetter) -> None:
        if self._ahead.pop(letter.identity, None) is None:
            self._dead_letters(letter)

    def _receive(self) -> None:
        with suppress(EOFError, BrokenPipeError):
            self._process.begin(self._order)
            while True:
                self._take_in(self._process.receive())

    def commit(self, positions: Positions) -> None:
        """Have the dashboards' copy of our position follow, later."""
        self._process.commit(positions)
        with self._shared.changed:
            self._shared.commit = dict(positions)  # for this thread, should it read itself

    def close(self, seconds: float) -> None:
        """Stop, and wait for it about that long at the most."""
        with self._shared.changed:
            self._shared.stopping = True
            self._shared.changed.notify_all()
        self._process.end()
        self.join(seconds)
        if self.is_alive():
            self._process.kill()
            self.join(_KILLED_SECONDS)

    def _over(self) -> bool:
        return self._shared.stopping or self._shared.error is not None

    def _take_in(self, message: Message) -> None:
        if self._over():
            return  # only its end is waited for
        if isinstance(message, DeadLetter):
            self._dead_letters(message)
            self._ahead[message.identity] = replace(message, value=b"")
        elif isinstance(message, logging.LogRecord):
            relay(message)
        elif isinstance(message, Failure):
            self._fail(message.error())
        else:
            self._note(message)

    def _note(self, news: News) -> None:
        batch = None if news.batch is None else news.batch.unpacked(self._rows)
        if batch is not None:
            self._pass(batch)
            if self._finish is not None:
                batch = self._finish(batch)
        shared = self._shared
        with shared.changed:
            shared.counts, shared.ends = news.counts, news.ends
            shared.newest_event_time = news.newest_event_time
            shared.started_at = news.started_at
            if batch is not None:
                shared.batches.append(batch)
            shared.ended = news.ended
            shared.changed.notify_all()
            shared.changed.wait_for(lambda: len(shared.batches) < _AHEAD or shared.stopping)

    def _pass(self, batch: Batch) -> None:
        self._reached, self._watermark = batch.positions, batch.watermark
        self._rows_taken += len(batch)
        passed = [
            identity
            for identity, letter in self._ahead.items()
            if letter.offset < batch.positions[letter.partition].offset
        ]
        for letter in map(self._ahead.pop, passed):
            self._bad_passed[letter.reason.value] += letter.count

    def _fail(self, error: BaseException) -> None:
        with self._shared.changed:
            self._shared.error = error
            self._shared.changed.notify_all()

    def _rest(self) -> Order:
        """What is left to read."""
        what = self._order.what
        start = self._reached or self._shared.started_at or what.start
        return replace(self._order, what=replace(what, start=start, watermark=self._watermark))
