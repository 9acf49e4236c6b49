"""Who runs in a run directory: one small file a process, `processes/<name>.json`."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from errors import UserError

MONITOR = "monitor"
"""The name under which the monitor registers."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# The kernel's start times are steady, but the boot time that they count from is
# adjusted with the wall clock.
_SAME_START_SECONDS = 2.0


@dataclass(frozen=True)
class Process:
    name: str
    pid: int
    created_at: float  # start of the process by the system's account, s since 1970
    started_at: float  # when it registered, s since 1970
    metrics_url: str  # empty: it serves none
    alive: bool


class Registration:
    """Tells `ecdctr status` of this process, from construction until `close`.

    Leaving the `with` block by an error keeps the file, so that the process is
    shown as dead; a clean end, Ctrl-C and `sys.exit` remove it.

    Raises:
        UserError: another live process of this run directory has the name, or the
            directory cannot be written.
    """

    def __init__(self, run_dir: Path, name: str, metrics_url: str = "") -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot name a process: small letters, digits, . _ -")
        self.path = _folder(run_dir) / f"{name}.json"
        holder = _read(self.path)
        if holder is not None and holder.alive and holder.pid != os.getpid():
            raise UserError(
                f"'{name}' already runs in {run_dir} as process {holder.pid}; "
                "stop it, or take another --run-dir"
            )
        self._entry = {
            "name": name,
            "pid": os.getpid(),
            "created_at": psutil.Process().create_time(),
            "started_at": time.time(),
            "metrics_url": metrics_url,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self._entry), encoding="utf-8")
            temporary.replace(self.path)
        except OSError as error:
            raise UserError(
                f"cannot register in {self.path.parent}: {error.strerror}; take another --run-dir"
            ) from error

    def close(self) -> None:
        """Remove the file, unless another process has taken the name since."""
        holder = _read(self.path)
        if holder is not None and holder.pid == self._entry["pid"]:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = isinstance(error, SystemExit) and error.code not in (None, 0)
        if not failed and not isinstance(error, Exception):
            self.close()


def running(run_dir: Path) -> list[Process]:
    """Every process that registered and did not end cleanly, by name; files that are
    no registration are left out."""
    found = (_read(path) for path in sorted(_folder(run_dir).glob("*.json")))
    return [process for process in found if process is not None]


def page_of(run_dir: Path) -> str:
    """Address of the monitor's page; empty: no monitor runs."""
    urls = [p.metrics_url for p in running(run_dir) if p.name == MONITOR and p.alive]
    return urls[0].removesuffix("metrics") if urls else ""


def _folder(run_dir: Path) -> Path:
    return run_dir / "processes"


def _read(path: Path) -> Process | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return Process(
            name=path.stem,
            pid=int(entry["pid"]),
            created_at=float(entry["created_at"]),
            started_at=float(entry["started_at"]),
            metrics_url=str(entry["metrics_url"]),
            alive=_alive(int(entry["pid"]), float(entry["created_at"])),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _alive(pid: int, created_at: float) -> bool:
    """Whether `pid` runs and is the process of that time, not one that got its number."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created_at) <= _SAME_START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OverflowError, ValueError):
        return False
