"""Forks `ecdctr` with TorchRec and Faust imported already: a life costs a second, not ten.

Started by `nursery_support.Nursery`. It imports everything that the forked commands do and
then runs nothing itself, so that a fork of it is as good as a fresh interpreter: no
tensor was ever made, no process group joined, no Python thread started. A fork runs the
command line for real, in a process of its own that may be killed for real. One line of
JSON in and one out, on standard input and output:

    {"arguments": [...], "told": path, "output": path, "environ": {...},
     "before": Python to run first, or instead where it exits}              {"pid": 123}
    {"poll": 123}                                         {"status": null | -9 | 0 ...}

``told`` takes what the process prints, ``output`` what it has to complain of.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any

_PR_SET_PDEATHSIG = 1


def serve() -> None:
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            answer: dict[str, Any] = {"status": _poll(request["poll"], ended)}
        else:
            answer = {"pid": _fork(request)}
        print(json.dumps(answer), flush=True)


def _poll(child: int, ended: dict[int, int]) -> int | None:
    if child not in ended:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            ended[child] = os.waitstatus_to_exitcode(status)
    return ended.get(child)


def _fork(request: dict[str, Any]) -> int:
    assert threading.active_count() == 1
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _become(request)
        status = _run(request)
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


def _become(request: dict[str, Any]) -> None:
    """Cut the ties to the nursery, but die with it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    told = os.open(request["told"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, ours in ((0, nothing), (1, told), (2, output)):
        os.dup2(ours, descriptor)
    os.environ.update(request["environ"])


def _run(request: dict[str, Any]) -> int:
    sys.argv = ["ecdctr", *request["arguments"]]
    try:
        exec(request.get("before", ""), {"__name__": "__main__"})
        import cli

        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    import importlib

    for module in (
        "embeddings.refresh_worker",
        "monitoring.control_sender",
        "monitoring.drift_observer",
        "monitoring.drift_telemetry",
        "monitoring.monitor",
        "monitoring.monitor_process",
        "monitoring.monitor_report",
        "streaming.market_log",
        "streaming.simulate",
        "trainers.replay.command",
        "trainers.replay.parallel",
        "trainers.replay.recording",
        "trainers.replay.run",
        "trainers.process",
        "trainers.train",
    ):
        importlib.import_module(module)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    serve()
