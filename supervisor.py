"""Keep a handful of child processes running, and stop them all.

A child that dies is started again after a pause that grows with every death and
shrinks back after a minute of health. Children live in sessions of their own, so
a Ctrl-C at the terminal reaches only the supervisor, which stops them in order;
and they hold the read end of a pipe, so they stop when the supervisor is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shutdown import SUPERVISED

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
HEALTHY_AFTER_SECONDS = 60.0


@dataclass
class Child:
    """One command that should be running; its output goes to ``log``."""

    name: str
    command: Sequence[str]
    log: Path
    finite: bool = False  # exit status 0 means done, not dead
    environ: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0
    start_again_at: float | None = None
    _pause: float = FIRST_PAUSE_SECONDS

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {SUPERVISED: "1"} | self.environ,
            )
        self.started_at = time.monotonic()
        self.start_again_at = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def done(self) -> bool:
        return self.finite and self.process is not None and self.process.poll() == 0

    def tend(self) -> str | None:
        """Start again if it died; returns what happened, to be shown."""
        if self.process is None or self.running or self.done:
            return None
        now = time.monotonic()
        if self.start_again_at is None:
            if now - self.started_at > HEALTHY_AFTER_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self.start_again_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            return f"{self.name} ended ({_ending(self.process.returncode)}); starting it again"
        if now >= self.start_again_at:
            self.restarts += 1
            self.start()
        return None

    def stop(self, patience: float) -> None:
        """SIGTERM, then SIGKILL when ``patience`` seconds have passed."""
        if self.process is None:
            return
        if self.running:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def last_words(self, lines: int = 1) -> str:
        """The end of the log, for an error message."""
        try:
            text = self.log.read_text(errors="replace").strip()
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"
