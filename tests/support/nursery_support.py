"""Processes of `ecdctr` in tests, forked where everything is imported already."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests_support import ROOT, environ, eventually

AS_IF_ALONE = "import logging; logging.root.handlers.clear()\n"
"""TorchRec's import sets logging up, and processes without it have none of that."""

_OF_KAFKA = re.compile(r"(WARNING|ERROR):(kafka\.|streaming\.kafka_logging)")


class Nursery:
    """Client of `nursery_process`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ(),
            cwd=ROOT,
        )
        self._ready = False

    def wait(self) -> None:
        """Until it has imported everything."""
        assert self._process.stdout
        if not self._ready:
            assert "ready" in json.loads(self._process.stdout.readline())
            self._ready = True

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.wait()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def start(
        self,
        arguments: Sequence[str],
        output: Path,
        told: Path | None = None,
        before: str = "",
        **environment: str,
    ) -> Life:
        """Fork `ecdctr` with ``arguments``; what it prints goes beside ``output``, or to ``told``.

        ``before``: Python that runs in the fork first, or instead where it exits.
        """
        request = {
            "arguments": list(arguments),
            "output": str(output),
            "told": str(told or f"{output}.told"),
            "environ": environment,
            "before": before,
        }
        return Life(self, self.ask(request)["pid"], output)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Life:
    """One process, from its fork to its end."""

    nursery: Nursery
    pid: int
    output: Path

    @property
    def status(self) -> int | None:
        """Exit status, minus the signal that killed it, or None while it runs."""
        status: int | None = self.nursery.ask({"poll": self.pid})["status"]
        return status

    def signal(self, number: signal.Signals) -> None:
        if self.status is None:
            os.kill(self.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Wait for the end; the exit status."""
        try:
            eventually(lambda: self.status is not None, seconds, f"end of {self.pid}")
        except AssertionError:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"still alive after {seconds} s: {self.said()}") from None
        status = self.status
        assert status is not None
        return status

    def said(self) -> str:
        """Its standard error."""
        return self.output.read_text(errors="replace")

    @property
    def listens(self) -> bool:
        """Whether it has begun, and a signal is an order to stop in order."""
        told = Path(f"{self.output}.told")
        return told.exists() and "reading" in told.read_text(errors="replace")

    def printed(self) -> str:
        """Its standard output."""
        return Path(f"{self.output}.told").read_text()

    def complaints(self) -> list[str]:
        """The lines of its standard error, but for those on Kafka's coming and going."""
        return [line for line in self.said().splitlines() if not _OF_KAFKA.match(line)]
