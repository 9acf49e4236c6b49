"""A real Apache Kafka, one node, as a child process of ours.

The data folder holds everything: `logs/` (Kafka's data), `kafka.log`, the
broker's settings, `lock` (one owner at a time) and, while it runs, `address`,
by which other processes of the run find it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from errors import UserError
from streaming.connection import KafkaConfig
from streaming.kafka_classes import class_cache
from streaming.kafka_jars import Report, class_path, report_to_stderr
from streaming.kafka_logging import quiet_kafka_python
from streaming.kafka_probe import round_trip
from streaming.kafka_process import (
    LOOPBACK,
    GuardedProcess,
    Listener,
    Ports,
    answers,
    close,
    environment,
    free_ports,
    java_command,
    keep_from_forks,
    new_cluster_id,
    server_properties,
    write_files,
)

START_SECONDS = 60.0
STOP_SECONDS = 20.0
WATCHED_STOP_SECONDS = 120.0
"""Java writes down what it saw at the end."""
LOCK_SECONDS = 3.0
"""A broker whose owner was killed needs a moment to die and give up the folder."""


class PortTaken(Exception):
    """Somebody else listens on a port that was free a moment ago."""


class EmbeddedKafka:
    """One broker over ``data_dir``; the data stays when it stops.

    As a context manager it runs for the length of the block. It stops with this
    process, even if that is killed. The ports are the same at every start over
    the same data, as long as nobody took them.

    Args:
        data_dir: made if missing.
        heap_mb: Java's heap, MB.
        extra: more of the broker's properties.
        listener: where other machines reach it; None: nobody but this one does.
        report: takes one line when the jars are fetched or ports change.
        watched_by: Java's options for watching the broker, see `streaming.kafka_classes`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        heap_mb: int = 384,
        extra: dict[str, str] | None = None,
        listener: Listener | None = None,
        report: Report = report_to_stderr,
        watched_by: Sequence[str] = (),
    ):
        self.data_dir = data_dir.absolute()
        self._heap_mb = heap_mb
        self._extra = extra or {}
        self._listener = listener
        self._report = report
        self._ports: Ports | None = None
        self._process: GuardedProcess | None = None
        self._lock: int | None = None
        self._watched_by = watched_by
        self._class_cache: Sequence[str] = ()

    @property
    def bootstrap_servers(self) -> str:
        if self._ports is None:
            raise RuntimeError("the embedded Kafka was not started")
        return f"{LOOPBACK}:{self._ports.broker}"

    @property
    def config(self) -> KafkaConfig:
        return KafkaConfig(bootstrap_servers=self.bootstrap_servers)

    @property
    def pid(self) -> int:
        """The broker's process id."""
        if self._process is None:
            raise RuntimeError("the embedded Kafka does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.exit_code is None

    def __enter__(self) -> EmbeddedKafka:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the broker; return when a record was produced and consumed.

        Raises:
            UserError: no jars, the folder is in use, or the broker does not start.
        """
        if self.running:
            return
        if self._listener is not None and not self._listener.free:
            raise UserError(f"port {self._listener.port} is taken: --listen on another one")
        self._acquire()
        try:
            jars = class_path(self._report)
            if not self._watched_by:
                self._class_cache = class_cache(jars, self._watch, self._report)
            self._format(jars)
            self._launch(jars)
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """Stop in order, kill after ``grace_seconds``, and let the data folder go."""
        if self._process is not None:
            self._process.stop(grace_seconds)
            self._process = None
        if self._lock is not None:
            (self.data_dir / "address").unlink(missing_ok=True)
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # the guard may hold it for a moment longer
            close(self._lock)
            self._lock = None

    def kill(self) -> None:
        """Kill the broker hard, as a crash would; :meth:`restart` brings it back."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop the broker if it still runs, and start it over the same data and ports."""
        if self._process is not None:
            self._process.stop(STOP_SECONDS)
        self.start()

    def _acquire(self) -> None:
        """Lock the folder. The broker inherits the lock, so it outlives us as the broker does."""
        if self._lock is not None:
            return
        if "," in str(self.data_dir):
            raise UserError(
                f"{self.data_dir} cannot hold Kafka's data: to Kafka a comma ends a folder's name; "
                "choose another --run-dir"
            )
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(
                f"{self.data_dir} cannot hold Kafka's data: {error.strerror}"
            ) from error
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                os.close(lock)
                raise UserError(
                    f"an embedded Kafka already runs over {self.data_dir}: use it (its address "
                    f"is in {self.data_dir / 'address'}), stop it, or choose another --run-dir"
                )
            time.sleep(0.05)
        keep_from_forks(lock)
        self._lock = lock

    def _format(self, jars: str) -> None:
        """Prepare an empty data folder, as Kafka demands before its first start."""
        final, unfinished = self.data_dir / "logs", self.data_dir / "logs.unfinished"
        if final.exists():
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        self._write_files(Ports(1, 2), unfinished)  # formatting opens no port
        settings = str(self.data_dir / "server.properties")
        arguments = ("format", "--cluster-id", new_cluster_id(), "--config", settings)
        with (self.data_dir / "output.log").open("ab") as output:
            code = subprocess.call(
                self._java(jars, "kafka.tools.StorageTool", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(),
            )
        if code:
            raise UserError(
                f"{self.data_dir} cannot be made ready for Kafka (status {code}); "
                f"why is in {self.data_dir / 'output.log'}"
            )
        unfinished.rename(final)

    def _java(self, jars: str, *main: str) -> list[str]:
        return java_command(self.data_dir, jars, self._heap_mb, self._class_cache, *main)

    def _watch(self, folder: Path, options: list[str]) -> None:
        """Start and stop a broker like this one over ``folder``."""
        broker = EmbeddedKafka(
            folder, heap_mb=self._heap_mb, report=self._report, watched_by=options
        )
        broker.start()
        broker.stop(WATCHED_STOP_SECONDS)

    def _write_files(self, ports: Ports, logs: Path) -> None:
        properties = server_properties(ports, logs, self._listener)
        write_files(self.data_dir, {**properties, **self._extra})

    def _launch(self, jars: str) -> None:
        assert self._lock is not None
        settings = str(self.data_dir / "server.properties")
        for ports in self._port_choices():
            self._write_files(ports, self.data_dir / "logs")
            self._ports = ports
            seen = self._log_size()
            self._process = GuardedProcess(
                self._java(jars, *self._watched_by, "kafka.Kafka", settings),
                self.data_dir / "output.log",
                inherit=[self._lock],
            )
            try:
                self._await_ready(seen)
            except PortTaken:
                continue
            self._announce()
            return
        raise UserError("the embedded Kafka found no port that stayed free; start it again")

    def _port_choices(self) -> Iterator[Ports]:
        """The ports of the last start if they are free, then others."""
        remembered = self._ports or self._remembered_ports()
        if remembered and remembered.free:
            yield remembered
        for _ in range(3):
            ports = free_ports()
            if remembered:
                self._report(
                    f"port {remembered.broker} was taken meanwhile: "
                    f"the embedded Kafka is now at {LOOPBACK}:{ports.broker}"
                )
            yield ports

    def _remembered_ports(self) -> Ports | None:
        try:
            return Ports(**json.loads((self.data_dir / "ports").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _await_ready(self, seen: int) -> None:
        assert self._ports is not None
        quiet_kafka_python()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._check_alive(seen)
            if answers(self._ports.broker) and round_trip(self.bootstrap_servers):
                return
            time.sleep(0.05)
        raise UserError(
            f"the embedded Kafka was not ready after {START_SECONDS:.0f} s; "
            f"its log is {self.data_dir / 'kafka.log'}"
        )

    def _check_alive(self, seen: int) -> None:
        assert self._process is not None
        code = self._process.exit_code
        if code is None:
            return
        log = self._log_since(seen)
        if "Address already in use" in log or "BindException" in log:
            raise PortTaken
        raise UserError(
            f"the embedded Kafka ended at once (status {code}); why is in "
            f"{self.data_dir / 'kafka.log'} and {self.data_dir / 'output.log'}"
        )

    def _log_size(self) -> int:
        path = self.data_dir / "kafka.log"
        return path.stat().st_size if path.exists() else 0

    def _log_since(self, seen: int) -> str:
        try:
            with (self.data_dir / "kafka.log").open("rb") as file:
                file.seek(seen)
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _announce(self) -> None:
        assert self._ports is not None
        ports = {"broker": self._ports.broker, "controller": self._ports.controller}
        _write_json(self.data_dir / "ports", ports)
        address = {
            "bootstrap_servers": self.bootstrap_servers,
            "owner_pid": os.getpid(),
            "broker_pid": self.pid,
        }
        _write_json(self.data_dir / "address", address)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Readers see the old content or the new, never half of it."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    new.write_text(json.dumps(content) + "\n")
    new.replace(path)
