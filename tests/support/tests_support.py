"""Helpers that tests of several folders share."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ECDCTR = [sys.executable, "-m", "cli"]


def environ(**more: str) -> dict[str, str]:
    """This environment without settings of the developer's own, importing this tree."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("ECDCTR_") or k == "ECDCTR_CACHE_DIR"
    }
    return kept | {"PYTHONPATH": str(ROOT)} | more


def run_ecdctr(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ECDCTR, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environ(**(env or {})),
    )


def eventually(
    condition: Callable[[], object], seconds: float, what: str, every: float = 0.05
) -> None:
    """Wait for ``condition``; fail with ``what`` when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(every)


def knows_slices() -> bool:
    """Whether this system lets a thread choose its slices of processor time."""
    major, minor = map(int, platform.release().split(".")[:2])
    return platform.system() == "Linux" and (major, minor) >= (6, 12)
