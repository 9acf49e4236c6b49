"""How a long-running process learns that it should stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType

SUPERVISED = "ECDCTR_SUPERVISED"
"""Set by a supervisor that holds the other end of our standard input."""


def end_at_once() -> None:
    """Let SIGINT and SIGTERM end the process with status 0, until `stop_event` is called.

    For a start that takes long and holds nothing yet that must be left in order.
    """

    def on_signal(_signum: int, _frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)


def stop_event() -> threading.Event:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once.

    Under a supervisor, the end of standard input sets it too: that is how the
    children of a supervisor that was killed hard come to know of it. Call this
    from the main thread.
    """
    stopping = threading.Event()

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            os._exit(128 + signum)
        stopping.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if os.environ.get(SUPERVISED):
        threading.Thread(target=_watch_stdin, args=(stopping,), daemon=True).start()
    return stopping


def end_with_parent() -> None:
    """For a process of a pool: end as soon as the process that made it has ended, however.

    A pool's processes wait for work for ever when the one that had it for them was killed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _watch_stdin(stopping: threading.Event) -> None:
    # The raw descriptor: a thread blocked inside sys.stdin's lock would make
    # the interpreter abort at exit.
    descriptor = sys.__stdin__.fileno() if sys.__stdin__ else 0
    while os.read(descriptor, 4096):
        pass
    stopping.set()
