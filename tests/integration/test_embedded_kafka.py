"""The embedded Kafka is a real one: it starts, survives kills, and goes when we go."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from kafka import TopicPartition
from tests_support import eventually, run_ecdctr

from errors import UserError
from streaming import kafka_jars
from streaming.connection import KafkaConfig
from streaming.embedded_kafka import EmbeddedKafka
from streaming.kafka_classes import class_cache
from streaming.kafka_clients import admin, consumer, producer, resolve
from streaming.kafka_probe import round_trip
from streaming.kafka_process import LOOPBACK, GuardedProcess, Listener, free_ports

ROOT = Path(__file__).resolve().parents[2]
PARTITION = TopicPartition("t", 0)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def produce(kafka: KafkaConfig, *values: bytes) -> None:
    with contextlib.closing(producer(kafka)) as out:
        for value in values:
            out.send("t", value, partition=0).get(30)


def consume(kafka: KafkaConfig, count: int) -> list[bytes]:
    with contextlib.closing(consumer(kafka)) as into:
        into.assign([PARTITION])
        into.seek_to_beginning()
        found: list[bytes] = []
        wait_for(lambda: bool(found.extend(poll(into)) or len(found) >= count))
        return found


def poll(into) -> list[bytes]:
    return [record.value for batch in into.poll(100).values() for record in batch]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    # Neither commas nor backslashes nor umlauts may trip Java's properties.
    return tmp_path_factory.mktemp("dätä dir") / "back\\slash"


@pytest.fixture(scope="module")
def broker(data_dir) -> Iterator[EmbeddedKafka]:
    """A broker that may be killed."""
    with EmbeddedKafka(data_dir) as broker:
        with contextlib.closing(admin(broker.config)) as client:
            client.create_topics({"t": {"num_partitions": 1}}, wait_for_metadata=True)
        yield broker


def test_records_survive_kill_and_restart_at_the_same_address(broker):
    produce(broker.config, b"before")
    with contextlib.closing(consumer(broker.config)) as waiting:
        waiting.assign([PARTITION])
        waiting.seek_to_beginning()
        wait_for(lambda: bool(poll(waiting)))
        address, pid = broker.bootstrap_servers, broker.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not broker.running)
        assert gone(pid)
        broker.restart()
        assert broker.bootstrap_servers == address and broker.pid != pid
        produce(broker.config, b"after")
        found: list[bytes] = []
        wait_for(lambda: bool(found.extend(poll(waiting)) or found))
        assert found == [b"after"]
    assert consume(broker.config, 2) == [b"before", b"after"]


def test_it_listens_on_the_loopback_only_and_logs_to_a_file(broker, data_dir):
    listening = {
        c.laddr.ip.removeprefix("::ffff:")
        for c in psutil.Process(broker.pid).net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening == {LOOPBACK}
    assert "Kafka Server started" in (data_dir / "kafka.log").read_text()


def test_java_takes_kafka_s_classes_from_the_cache(broker, data_dir):
    options = psutil.Process(broker.pid).cmdline()
    (cache,) = [option for option in options if option.startswith("-XX:AOTCache=")]
    assert Path(cache.partition("=")[2]).stat().st_size > 1 << 20
    assert "[aot]" not in (data_dir / "output.log").read_text(), "Java found nothing amiss"


def test_a_class_cache_that_java_cannot_use_is_left_alone(tmp_path, monkeypatch):
    full = kafka_jars.cache_dir()
    monkeypatch.setenv("ECDCTR_CACHE_DIR", str(tmp_path / "cache"))
    (own := kafka_jars.cache_dir()).mkdir(parents=True)
    for jar in kafka_jars.pinned():
        (own / jar.filename).symlink_to(full / jar.filename)
    class_cache(kafka_jars.class_path(), lambda *_: None, print)  # an empty one
    (cache,) = own.glob("*.aot")
    cache.write_bytes(b"no class cache" * 100)
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        assert f"-XX:AOTCache={cache}" in psutil.Process(broker.pid).cmdline()
        assert round_trip(broker.bootstrap_servers)


def test_a_second_instance_over_the_same_data_is_refused(broker, data_dir, monkeypatch):
    monkeypatch.setattr("streaming.embedded_kafka.LOCK_SECONDS", 0.1)
    with pytest.raises(UserError, match="already runs over"), EmbeddedKafka(data_dir):
        pass
    assert broker.running


def test_topics_are_not_made_by_naming_them(broker):
    with contextlib.closing(admin(broker.config)) as client:
        assert "unknown" not in client.list_topics()
    with contextlib.closing(consumer(broker.config)) as reader:
        assert not reader.partitions_for_topic("unknown")
    with contextlib.closing(admin(broker.config)) as client:
        assert "unknown" not in client.list_topics()


def test_a_client_of_the_wrong_protocol_is_a_line_for_the_user(broker, monkeypatch):
    monkeypatch.setattr("streaming.kafka_clients.CONNECT_SECONDS", 1.0)
    wrong = broker.config.model_copy(update={"security_protocol": "SSL"})
    for build in (consumer, producer, admin):
        with pytest.raises(UserError, match=f"Kafka at {broker.bootstrap_servers} cannot be used"):
            build(wrong)


OWNER = """
import multiprocessing, subprocess, sys, time
from pathlib import Path
from streaming.embedded_kafka import EmbeddedKafka
broker = EmbeddedKafka(Path(sys.argv[1]))
broker.start()
spawned = subprocess.Popen(["sleep", "60"])
forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
forked.start()
print(broker.pid, spawned.pid, forked.pid, flush=True)
time.sleep(60)
"""


def test_it_dies_with_its_parent_and_another_takes_a_new_port_if_it_must(tmp_path):
    said: list[str] = []
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    kafka_pid, *children = map(int, owner.stdout.readline().split())
    try:
        assert os.getsid(kafka_pid) != os.getsid(owner.pid)  # Ctrl-C is not for the broker
        owner.kill()
        owner.wait()
        wait_for(lambda: gone(kafka_pid), 10)
        assert not any(gone(child) for child in children)  # and they did not hold it up
        port = json.loads((tmp_path / "address").read_text())["bootstrap_servers"].split(":")[1]
        with (
            occupied(int(port)),
            EmbeddedKafka(tmp_path, report=said.append) as again,  # nor do they hold the folder
        ):
            assert again.running and not again.bootstrap_servers.endswith(f":{port}")
            assert json.loads((tmp_path / "address").read_text())["broker_pid"] == again.pid
        assert port in said[-1]
        assert not (tmp_path / "address").exists()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


@contextlib.contextmanager
def occupied(port: int) -> Iterator[None]:
    """Somebody else listens, as soon as a process that was killed has let the port go."""
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def listens() -> bool:
            try:
                somebody.bind((LOOPBACK, port))
            except OSError:
                return False
            somebody.listen()
            return True

        wait_for(listens)
        yield


def test_the_guard_leaves_with_the_broker(tmp_path):
    child = GuardedProcess(["sleep", "60"], tmp_path / "out")
    group = child.pid
    child.stop(5)
    wait_for(lambda: not [p for p in psutil.pids() if group_of(p) == group])


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    deaf = "trap '' TERM; echo deaf; while :; do sleep 1; done"
    child = GuardedProcess(["sh", "-c", deaf], tmp_path / "out")
    wait_for(lambda: "deaf" in (tmp_path / "out").read_text())
    child.stop(0.2)
    assert child.exit_code == -signal.SIGKILL


def test_a_broker_that_cannot_start_says_where_to_look(tmp_path):
    with (
        pytest.raises(UserError, match="output.log"),
        EmbeddedKafka(tmp_path, extra={"log.retention.ms": "nonsense"}),
    ):
        pass
    assert "nonsense" in (tmp_path / "output.log").read_text()


def test_an_unpacked_kafka_runs_too(tmp_path, monkeypatch):
    kafka_jars.class_path()
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    for jar in kafka_jars.pinned():
        (libs / jar.filename).symlink_to(kafka_jars.cache_dir() / jar.filename)
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    monkeypatch.setenv("ECDCTR_CACHE_DIR", str(tmp_path / "no cache"))
    with EmbeddedKafka(tmp_path / "data") as broker:
        assert broker.running
    assert not (tmp_path / "no cache").exists()


@contextlib.contextmanager
def command(run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "kafka", "--run-dir", str(run_dir)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def line_like(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"ended without a line like {pattern!r}")


def test_the_command_keeps_one_running_and_its_data(tmp_path):
    with command(tmp_path) as process:
        address = line_like(process, r"ready at (\S+),")
        found = resolve(KafkaConfig(), tmp_path)
        assert found.bootstrap_servers == address
        shown = run_ecdctr("status", "--once", "--run-dir", str(tmp_path))
        assert shown.returncode == 0 and "Kafka up" in shown.stdout
        assert "kafka         running" in shown.stdout
        with contextlib.closing(admin(found)) as client:
            client.create_topics({"t": {"num_partitions": 1}}, wait_for_metadata=True)
        produce(found, b"kept")
        broker_pid = json.loads((tmp_path / "kafka" / "address").read_text())["broker_pid"]
        os.kill(broker_pid, signal.SIGKILL)
        assert line_like(process, r"back at (\S+)") == address
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(UserError, match="no embedded one runs"):
        resolve(KafkaConfig(), tmp_path)
    with EmbeddedKafka(tmp_path / "kafka") as again:
        assert again.bootstrap_servers == address
        assert consume(again.config, 1) == [b"kept"]


def test_the_command_has_nothing_to_start_beside_a_cluster(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cli", "kafka", "--bootstrap-servers", "a:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "nothing to start" in done.stdout


def test_sasl_settings_are_passed_through(tmp_path, monkeypatch):
    ports, guarded = free_ports(), free_ports().broker
    monkeypatch.setattr("streaming.embedded_kafka.free_ports", lambda: ports)
    monkeypatch.setattr("streaming.kafka_clients.CONNECT_SECONDS", 2.0)
    plain, sasl = f"PLAINTEXT://{LOOPBACK}:{ports.broker}", f"SASL://{LOOPBACK}:{guarded}"
    extra = {
        "listeners": f"{plain},{sasl},CONTROLLER://{LOOPBACK}:{ports.controller}",
        "advertised.listeners": f"{plain},{sasl}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT"
        ),
        "sasl.enabled.mechanisms": "PLAIN",
        # With Kafka's pause the reason and the hang-up come at once; kafka-python sees the latter.
        "connection.failed.authentication.delay.ms": "0",
        "listener.name.sasl.plain.sasl.jaas.config": (
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_ann=secret;"
        ),
    }
    user = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "ann"}
    config = KafkaConfig(
        bootstrap_servers=f"{LOOPBACK}:{guarded}",
        security_protocol="SASL_PLAINTEXT",
        options={**user, "sasl_plain_password": "secret"},
    )
    with EmbeddedKafka(tmp_path, extra=extra):
        with contextlib.closing(admin(config)) as client:
            client.create_topics({"t": {"num_partitions": 1}}, wait_for_metadata=True)
        produce(config, b"signed")
        assert consume(config, 1) == [b"signed"]
        wrong = config.model_copy(update={"options": {**user, "sasl_plain_password": "guess"}})
        eventually(lambda: "Authentication failed" in refusal(wrong), 30, "its reason")
        assert "kafka.options" in refusal(wrong)


def refusal(config: KafkaConfig) -> str:
    """Why Kafka refuses; a broker that hangs up first may leave only that to be told."""
    with pytest.raises(UserError) as caught:
        consumer(config)
    return str(caught.value)


def test_others_are_let_in_by_the_name_that_they_know(tmp_path):
    port = free_ports().broker
    with EmbeddedKafka(tmp_path, listener=Listener("localhost", port)) as broker:
        assert round_trip(f"localhost:{port}")
        with contextlib.closing(admin(KafkaConfig(bootstrap_servers=f"localhost:{port}"))) as one:
            found = one.describe_cluster()["brokers"]
        assert [(node["host"], node["port"]) for node in found] == [("localhost", port)]
        assert round_trip(broker.bootstrap_servers)


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"):
            EmbeddedKafka(tmp_path, listener=Listener("localhost", port)).start()
