"""Short slices of processor time, where the system knows of them."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from tests_support import ROOT, environ, knows_slices

from trainers import host_threads

SLICE = """
import pathlib, threading
from trainers.host_threads import wake_promptly
wake_promptly()
def told():
    text = pathlib.Path("/proc/thread-self/sched").read_text()
    print(*(line.split(":")[1].strip() for line in text.splitlines() if "se.slice" in line))
threading.Thread(target=told).start()
"""


@pytest.mark.skipif(not knows_slices(), reason="this kernel has no slices of one's own")
def test_threads_started_later_have_them_too():
    command = [sys.executable, "-c", SLICE]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ())
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() in ("", "100000")  # not every kernel tells


@pytest.mark.parametrize("machine, system", [("sparc", "Linux"), ("x86_64", "Darwin")])
def test_nothing_happens_elsewhere(monkeypatch, machine, system):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(host_threads.ctypes, "CDLL", lambda name: pytest.fail("asked"))
    host_threads.wake_promptly()
