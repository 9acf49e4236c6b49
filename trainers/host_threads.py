"""Lets a thread that has waited for others run at once, on Linux from 6.12 on."""

from __future__ import annotations

import ctypes
import os
import platform

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # number of the system call
_SLICE_NS = 100_000  # the least that Linux takes


class _SchedAttr(ctypes.Structure):  # sched_setattr(2)
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def wake_promptly() -> None:
    """Ask for short slices of processor time, for this thread and those that it will start.

    A step's threads sleep and wake a hundred times. One that wakes may take the processor from
    a thread of lower priority, such as the reader's, only if its own slices are the shorter
    ones; otherwise it waits for the other's to end. Where the system does not know of that,
    nothing happens.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or platform.system() != "Linux" or os.sched_getscheduler(0):
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _SchedAttr(size=ctypes.sizeof(_SchedAttr), nice=nice, runtime=_SLICE_NS)
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0)
