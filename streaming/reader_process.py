"""A process of its own for reading ahead: decoding there does not hold up the model here.

Python runs one thread of a process at a time. In the trainer's process the reader's thread
therefore takes its time from the model's, even where a processor is idle.

What is sent, over one pipe each way: first an :class:`Order`, then positions to commit, and
None for the end; back come dead letters, news with or without a batch, lines for the log, and
what ended the reading. Order is kept, so a letter is here before any batch whose positions pass it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from streaming.connection import KafkaConfig
from streaming.dead_letters import DeadLetter
from streaming.impressions import Batch, ImpressionSchema, Positions, SourceRows
from streaming.pipe import open_pipe, receive, send
from streaming.reader_config import ReaderConfig
from streaming.reader_thread import (
    Assignment,
    Counts,
    Finish,
    Prepare,
    ReaderThread,
    Shared,
)

NAME = "ecdctr-reader"
_NEWS_SECONDS = 0.2  # between two looks at whether there is news without a batch
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_NICE = 10
"""Behind the model's threads where there is nothing to spare: batches are ready long before they
are wanted. With 19 a reader starves on a machine whose processors others keep busy."""
_GRACE_SECONDS = 1.0  # for closing the connection to Kafka, once told to end


@dataclass(frozen=True)
class Order:
    """What is to be read; goes to the other process, so all of it can be pickled."""

    kafka: KafkaConfig
    what: Assignment
    schema: ImpressionSchema
    config: ReaderConfig
    prepare: Prepare | None

    @property
    def rows(self) -> pa.Schema:
        """Of the batches."""
        whole, columns = self.schema.arrow, self.what.columns
        return whole if columns is None else pa.schema([whole.field(name) for name in columns])

    def thread(
        self,
        dead_letters: Callable[[DeadLetter], None],
        shared: Shared,
        finish: Finish | None = None,
    ) -> ReaderThread:
        """What carries it out."""
        return ReaderThread(
            self.kafka,
            self.what,
            self.schema,
            self.config,
            dead_letters,
            shared,
            self.prepare,
            finish,
        )


@dataclass(frozen=True)
class Packed:
    """A batch on its way; a slice that Arrow pickles would take all that it was cut from along."""

    rows: pa.Buffer  # Arrow IPC message
    rest: tuple[SourceRows, Positions, int, int | None, Any]

    @classmethod
    def of(cls, batch: Batch) -> Packed:
        rest = (batch.source, batch.positions, batch.watermark, batch.appended_at, batch.prepared)
        return cls(batch.rows.serialize(), rest)

    def unpacked(self, schema: pa.Schema) -> Batch:
        return Batch(pa.ipc.read_record_batch(self.rows, schema), *self.rest)


@dataclass(frozen=True)
class News:
    """How far reading has come, with the next batch where there is one."""

    counts: Counts
    ends: dict[int, int]
    newest_event_time: int
    started_at: Positions | None
    ended: bool
    batch: Packed | None = None


@dataclass(frozen=True)
class Failure:
    """An exception that ended the reading, as its parts: not every one survives pickling."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        error.add_note("".join(["In the process that reads: ", *traceback.format_exception(error)]))
        found = cls(type(error), error.args, dict(error.__dict__))
        try:
            pickle.loads(pickle.dumps(found))
        except Exception:
            return cls(RuntimeError, (f"{type(error).__name__}: {error}",), {})
        return found

    def error(self) -> BaseException:
        made = self.kind.__new__(self.kind, *self.args)
        made.args = self.args
        made.__dict__.update(self.state)
        return made


Message = DeadLetter | News | Failure | logging.LogRecord
"""What comes back."""


class ReaderProcess:
    """A forked process that waits for its one :class:`Order` and ends with this process.

    Make it with `fork` before there are threads: it has nothing but the modules imported so far.
    """

    def __init__(self, pid: int, to: int, back: int) -> None:
        self.pid = pid
        self._to: int | None = to
        self._back = back
        self._telling = threading.Lock()  # a descriptor that was closed may be another's by now
        self._ended = False

    @classmethod
    def fork(cls) -> ReaderProcess:
        (there, to), (back, home) = open_pipe(), open_pipe()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):  # or what waits there would be printed twice
                stream.flush()
        with warnings.catch_warnings():
            # NumPy's BLAS has threads from its import on, and sees to them in a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            parent, pid = os.getpid(), os.fork()
        if not pid:
            os.close(to)
            os.close(back)
            _serve(there, home, parent)
        os.close(there)
        os.close(home)
        return cls(pid, to, back)

    def begin(self, order: Order) -> None:
        """
        Raises:
            BrokenPipeError: the process was killed, or told to end.
        """
        with self._telling:
            if self._to is None:
                raise BrokenPipeError
            send(self._to, order)

    def commit(self, positions: Positions) -> None:
        with self._telling, suppress(BrokenPipeError):  # whoever receives from it finds out
            if self._to is not None:
                send(self._to, positions)

    def receive(self) -> Message:
        """
        Raises:
            EOFError: it has ended.
        """
        message = receive(self._back)
        assert isinstance(message, Message)
        return message

    def end(self) -> None:
        """Tell it to end; it does so within a second or so, and then `receive` says so."""
        with self._telling:
            if self._to is not None:
                with suppress(BrokenPipeError):
                    send(self._to, None)  # other forks may hold the pipe open
                os.close(self._to)
            self._to = None

    def wait(self) -> str:
        """Tell it to end and wait for it; its exit status, negative for a signal."""
        self.end()
        os.close(self._back)
        try:
            return str(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        except ChildProcessError:  # SIGCHLD is ignored here, by whoever started us
            return "unknown"
        finally:
            self._ended = True

    def kill(self) -> None:
        """For one that does not end, such as one that was stopped."""
        if not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


# -- in the other process ------------------------------------------------------------------


def _serve(orders: int, home: int, parent: int) -> NoReturn:
    status = 1
    try:
        _die_with(parent)
        # It ends with the one who forked it, who is the one to decide what a signal means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.nice(_NICE)
        with suppress(OSError):  # what `ps -o comm` and `top` call it, on Linux
            Path("/proc/self/comm").write_text(NAME)
        _read(orders, home)
        status = 0
    except (EOFError, BrokenPipeError):
        status = 0  # the other side is gone
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _die_with(parent: int) -> None:
    """Even while it is stopped, when it cannot see the pipe's end; on Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise EOFError


class _Relay(QueueHandler):
    """Has the log's lines said by the process that reads them."""

    def __init__(self, sender: _Sender) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._sender = sender

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(BrokenPipeError):
            self._sender.send(record)


def _read(orders: int, home: int) -> None:
    order = receive(orders)
    if not isinstance(order, Order):
        return  # the end, before anything was asked for
    sender = _Sender(home)
    logging.getLogger().handlers[:] = [_Relay(sender)]
    shared = Shared()
    thread = order.thread(sender.send, shared)
    threading.Thread(target=_obey, args=(orders, shared), name="orders", daemon=True).start()
    thread.start()
    _tell(sender, shared)
    thread.join(_GRACE_SECONDS)


def _obey(orders: int, shared: Shared) -> NoReturn:
    with suppress(EOFError):
        while (positions := receive(orders)) is not None:
            assert isinstance(positions, dict)
            with shared.changed:
                shared.commit = positions
                shared.changed.notify_all()
    with shared.changed:
        shared.stopping = True
        shared.changed.notify_all()
    time.sleep(_GRACE_SECONDS)
    os._exit(0)


class _Sender:
    def __init__(self, home: int) -> None:
        self._home, self._lock = home, threading.Lock()

    def send(self, message: Message) -> None:
        with self._lock:
            send(self._home, message)


def _tell(sender: _Sender, shared: Shared) -> None:
    """Send what there is to tell, until told to stop or reading has failed."""
    told: News | None = None
    while True:
        over = told is not None and told.ended
        with shared.changed:
            shared.changed.wait_for(partial(_due, shared, over), _NEWS_SECONDS)
            if shared.stopping:
                return
            batch = shared.batches.popleft() if shared.batches else None
            error, news = shared.error, _news(shared)
            shared.changed.notify_all()
        if batch is not None:
            sender.send(replace(news, batch=Packed.of(batch)))
            told = news
        elif error is not None:
            sender.send(Failure.of(error))
            return
        elif news != told:
            sender.send(news)
            told = news


def _due(shared: Shared, over: bool) -> bool:
    """``over``: that reading has ended was told."""
    ended = shared.ended and not over
    return bool(shared.batches or shared.error or shared.stopping or ended)


def _news(shared: Shared) -> News:
    counts = shared.counts
    return News(
        counts=replace(counts, bad=Counter(dict(counts.bad))),
        ends=dict(shared.ends),
        newest_event_time=shared.newest_event_time,
        started_at=shared.started_at,
        ended=shared.ended and not shared.batches,
    )
