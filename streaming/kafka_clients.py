"""kafka-python's clients, built from :class:`KafkaConfig`.

A client that first meets a broker which is not up yet backs off for long, so
the port is waited for before one is built.
"""

from __future__ import annotations

import difflib
import json
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from errors import UserError
from streaming.connection import KafkaConfig
from streaming.kafka_logging import is_refusal, overhear, quiet_kafka_python

CONNECT_SECONDS = 15.0
"""How long a broker that does not answer is waited for when a client is built."""

_BOOTSTRAP_FAILURE = re.compile(r"Bootstrap connection to \S+ failed: (.*) \(backoff")

Client = TypeVar("Client", KafkaConsumer, KafkaProducer, KafkaAdminClient)


def resolve(kafka: KafkaConfig, run_dir: Path) -> KafkaConfig:
    """``kafka`` with `bootstrap_servers` filled in, if need be from the embedded Kafka's address.

    With `start_wait_seconds` there is that much time for a Kafka to come and to answer.

    Raises:
        UserError: no cluster is configured and no embedded Kafka runs for ``run_dir``, or
            the one waited for did not answer.
    """
    deadline = time.monotonic() + kafka.start_wait_seconds
    while (found := _located(kafka, run_dir)) is None:
        if time.monotonic() >= deadline:
            raise UserError(
                f"no Kafka: none is configured (--bootstrap-servers HOST:PORT) and no embedded one "
                f"runs for {run_dir}; 'ecdctr kafka' with the same run directory starts it"
            )
        time.sleep(0.1)
    if kafka.start_wait_seconds:
        wait_for_broker(found, max(0.0, deadline - time.monotonic()))
    return found


def _located(kafka: KafkaConfig, run_dir: Path) -> KafkaConfig | None:
    if kafka.bootstrap_servers:
        return kafka
    try:
        address = json.loads((run_dir / "kafka" / "address").read_text())
        if psutil.pid_exists(address["owner_pid"]):
            return kafka.model_copy(update={"bootstrap_servers": address["bootstrap_servers"]})
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def consumer(kafka: KafkaConfig, **more: Any) -> KafkaConsumer:
    """A consumer that commits nothing by itself and creates no topics.

    Raises:
        UserError: unknown or unusable options, or no broker answers.
    """
    defaults = {"enable_auto_commit": False, "allow_auto_create_topics": False}
    return _build(KafkaConsumer, kafka, {**defaults, **more})


def producer(kafka: KafkaConfig, **more: Any) -> KafkaProducer:
    """A producer that waits for every replica; raises as :func:`consumer`."""
    return _build(KafkaProducer, kafka, {"acks": "all", "allow_auto_create_topics": False, **more})


def admin(kafka: KafkaConfig, **more: Any) -> KafkaAdminClient:
    """An admin client; raises as :func:`consumer`."""
    return _build(KafkaAdminClient, kafka, more)


def _build(kind: type[Client], kafka: KafkaConfig, more: Mapping[str, Any]) -> Client:
    settings = client_settings(kind, kafka, more)
    quiet_kafka_python()
    deadline = time.monotonic() + max(CONNECT_SECONDS, kafka.start_wait_seconds)
    while True:
        wait_for_broker(kafka, max(0.0, deadline - time.monotonic()))
        with overhear() as complaints:
            try:
                return kind(**settings)
            except Exception as error:  # a setting of the wrong type raises wherever it is used
                reason = _reason(error, complaints)
                # A broker may go away between its answer and the client's first question.
                if "ECONNREFUSED" in reason and time.monotonic() < deadline:
                    continue
                raise UserError(
                    f"Kafka at {kafka.bootstrap_servers} cannot be used: {reason}; "
                    f"see kafka.security_protocol and kafka.options"
                ) from error


def _reason(error: Exception, complaints: Sequence[str]) -> str:
    """Why, from the log if need be: kafka-python's timeout does not say what it met."""
    met = [found[1] for line in complaints if (found := _BOOTSTRAP_FAILURE.search(line))]
    met = [words for words in met if "RequestTimedOut" not in words] or met  # only: no time left
    # A broker that has refused once may just close the connection the next time.
    return next(filter(is_refusal, met), met[-1]) if met else one_line(error)


def one_line(error: BaseException) -> str:
    """The error's kind and words, without line breaks."""
    kind, words = type(error).__name__, " ".join(str(error).split())
    return words if words.startswith(kind) else f"{kind}: {words}".removesuffix(": ")


def client_settings(
    kind: type[Client], kafka: KafkaConfig, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments for ``kind``: the caller's, over the configured options it knows.

    Raises:
        UserError: an option that no client of kafka-python knows.
    """
    check_options(kafka.options)
    options = {key: value for key, value in kafka.options.items() if key in kind.DEFAULT_CONFIG}
    return {
        "bootstrap_servers": kafka.bootstrap_servers.split(","),
        "security_protocol": kafka.security_protocol,
        "bootstrap_timeout_ms": int(CONNECT_SECONDS * 1000),
        "reconnect_backoff_max_ms": kafka.reconnect_backoff_max_ms,
        **options,
        **more,
    }


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse an option that no client knows, naming the nearest one."""
    known = sorted(
        {*KafkaConsumer.DEFAULT_CONFIG, *KafkaProducer.DEFAULT_CONFIG}
        | {*KafkaAdminClient.DEFAULT_CONFIG}
    )
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see kafka-python's settings"
            raise UserError(f"kafka.options: unknown option '{name}'; {hint}")


def addresses(bootstrap_servers: str) -> list[tuple[str, int]]:
    """``host:port,[v6]:port`` as pairs; the port may be left out (9092)."""
    pairs = []
    for item in filter(None, (part.strip() for part in bootstrap_servers.split(","))):
        host, _, port = item.rpartition(":") if not item.endswith("]") else (item, "", "")
        if not host:
            host, port = port, ""
        if port and not (port.isascii() and port.isdigit()):
            raise UserError(f"kafka.bootstrap_servers: '{item}' is not host:port")
        pairs.append((host.strip("[]"), int(port or 9092)))
    if not pairs:
        raise UserError("kafka.bootstrap_servers is empty: expected host:port,host:port")
    return pairs


def wait_for_broker(kafka: KafkaConfig, timeout: float = CONNECT_SECONDS) -> None:
    """Return as soon as one bootstrap server accepts a connection.

    Raises:
        UserError: none did within ``timeout`` seconds.
    """
    servers = addresses(kafka.bootstrap_servers)
    deadline = time.monotonic() + timeout
    while True:
        for server in servers:
            try:
                with socket.create_connection(server, timeout=2):
                    return
            except (OSError, UnicodeError, OverflowError) as error:  # also: no host or port at all
                reason = error
        if time.monotonic() >= deadline:
            raise UserError(
                f"no Kafka answers at {kafka.bootstrap_servers} ({one_line(reason)}): start it, "
                f"or name another with --bootstrap-servers HOST:PORT"
            )
        time.sleep(0.1)
