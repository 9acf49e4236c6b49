"""What is made ready in a thread of its own, as the live reader's batches are."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")
_END = object()


def ahead(source: Iterator[T], make: Callable[[T], U], depth: int) -> Iterator[U]:
    """What ``make`` makes of each of ``source``, at most ``depth`` ahead of the user.

    Both run in another thread; what they raise is raised here, in its place.
    """
    made: queue.Queue[Any] = queue.Queue(depth)
    over = threading.Event()
    thread = threading.Thread(target=_fill, args=(source, make, made, over), daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
        thread.join()


def _fill(
    source: Iterator[T], make: Callable[[T], U], made: queue.Queue[Any], over: threading.Event
) -> None:
    try:
        for item in source:
            if not _put(made, make(item), over):
                return
        _put(made, _END, over)
    except BaseException as error:  # whatever it is, it belongs to the thread that waits
        _put(made, error, over)


def _put(made: queue.Queue[Any], item: Any, over: threading.Event) -> bool:
    while not over.is_set():
        try:
            made.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
