"""Keeps memory that was freed, instead of giving it back to the system at every step."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_KEPT = 32 << 20  # bytes
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Let glibc reuse blocks of megabytes, which a step allocates and frees by the dozen.

    By default they are mapped and unmapped each time, and the page faults that follow
    were seen to take a tenth to a fifth of a step on CPU. The process keeps its peak;
    larger blocks, such as big tables, still go back. Where the C library is another,
    nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
