"""How clients are configured and how an embedded Kafka is found. No broker is needed."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaConnectionError

from errors import UserError
from streaming.connection import KafkaConfig
from streaming.kafka_clients import (
    _build,
    addresses,
    client_settings,
    consumer,
    resolve,
    wait_for_broker,
)
from streaming.kafka_process import free_ports


def test_sasl_and_tls_settings_reach_every_client():
    options = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "u", "ssl_cafile": "ca.pem"}
    config = KafkaConfig(bootstrap_servers="a:1,b:2", security_protocol="SASL_SSL", options=options)
    for kind in (KafkaConsumer, KafkaProducer, KafkaAdminClient):
        settings = client_settings(kind, config, {"client_id": "me"})
        assert settings["security_protocol"] == "SASL_SSL"
        assert settings["bootstrap_servers"] == ["a:1", "b:2"]
        assert settings["reconnect_backoff_max_ms"] == config.reconnect_backoff_max_ms
        assert options.items() <= settings.items()
        assert settings.keys() <= kind.DEFAULT_CONFIG.keys()


def test_an_option_of_one_kind_of_client_leaves_the_others_alone():
    config = KafkaConfig(bootstrap_servers="a:1", options={"fetch_max_bytes": 1})
    assert "fetch_max_bytes" in client_settings(KafkaConsumer, config, {})
    assert "fetch_max_bytes" not in client_settings(KafkaProducer, config, {})


def test_an_unknown_option_is_refused_with_the_nearest_name():
    config = KafkaConfig(bootstrap_servers="a:1", options={"sasl_mechanisms": "PLAIN"})
    with pytest.raises(UserError, match="did you mean sasl_mechanism?"):
        client_settings(KafkaConsumer, config, {})


def test_bootstrap_servers_are_read_as_host_and_port():
    assert addresses("a:1, b ,[::1]:3,[::2]") == [("a", 1), ("b", 9092), ("::1", 3), ("::2", 9092)]
    for text in ("", " , ", "a:b"):
        with pytest.raises(UserError, match="bootstrap_servers"):
            addresses(text)


def test_a_broker_that_does_not_answer_is_one_line(monkeypatch):
    config = KafkaConfig(bootstrap_servers=f"127.0.0.1:{free_ports().broker}")
    with pytest.raises(UserError, match="no Kafka answers at 127.0.0.1") as caught:
        wait_for_broker(config, timeout=0.1)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("streaming.kafka_clients.CONNECT_SECONDS", 0.1)
    with pytest.raises(UserError, match="no Kafka answers"):
        consumer(config)


class Client:
    """Meets a broker that has just gone away, so often, before it finds one."""

    DEFAULT_CONFIG: ClassVar[dict[str, object]] = {}
    refused: ClassVar[int] = 0

    def __init__(self, **_):
        if Client.refused:
            Client.refused -= 1
            raise KafkaConnectionError("111 ECONNREFUSED")


@pytest.mark.parametrize("patience", [0.0, 30.0])
def test_a_broker_that_goes_away_as_a_client_is_built_is_waited_for(monkeypatch, patience):
    monkeypatch.setattr("streaming.kafka_clients.CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(Client, "refused", 2)
    with socket.create_server(("127.0.0.1", 0)) as broker:
        address = f"127.0.0.1:{broker.getsockname()[1]}"
        config = KafkaConfig(bootstrap_servers=address, start_wait_seconds=patience)
        if patience:
            assert isinstance(_build(Client, config, {}), Client)
        else:
            with pytest.raises(UserError, match="cannot be used: .*ECONNREFUSED"):
                _build(Client, config, {})


def write_address(run_dir, owner_pid, servers="127.0.0.1:7"):
    (run_dir / "kafka").mkdir()
    content = {"bootstrap_servers": servers, "owner_pid": owner_pid}
    (run_dir / "kafka" / "address").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("met", "told"),
    [
        (["socket disconnected", "RequestTimedOutError: after 14 ms"], "socket disconnected"),
        (["RequestTimedOutError: after 14 ms"], "RequestTimedOutError: after 14 ms"),
        (["SaslAuthenticationFailedError: no", "socket disconnected"], "SaslAuth"),
    ],
)
def test_what_was_met_says_more_than_that_time_ran_out(monkeypatch, met, told):
    def refused(**settings):
        for words in met:
            line = "Bootstrap connection to %s failed: %s (backoff 0.04 secs)"
            logging.getLogger("kafka.net.manager").warning(line, "bootstrap-0", words)
        raise KafkaConnectionError("no brokers")

    monkeypatch.setattr("streaming.kafka_clients.wait_for_broker", lambda *_: None)
    refused.DEFAULT_CONFIG = {}
    with pytest.raises(UserError, match=re.escape(f"cannot be used: {told}")):
        _build(refused, KafkaConfig(bootstrap_servers="127.0.0.1:1"), {})


def test_the_embedded_kafka_is_found_by_its_address(tmp_path):
    write_address(tmp_path, os.getpid())
    found = resolve(KafkaConfig(reconnect_backoff_max_ms=77), tmp_path)
    assert found == KafkaConfig(bootstrap_servers="127.0.0.1:7", reconnect_backoff_max_ms=77)


def test_a_configured_cluster_comes_first(tmp_path):
    write_address(tmp_path, os.getpid())
    assert resolve(KafkaConfig(bootstrap_servers="a:1"), tmp_path).bootstrap_servers == "a:1"


def test_an_address_left_by_a_dead_process_is_not_used(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_address(tmp_path, ended.pid)
    with pytest.raises(UserError, match="ecdctr kafka"):
        resolve(KafkaConfig(), tmp_path)


def test_no_kafka_at_all_names_the_ways_out(tmp_path):
    with pytest.raises(UserError, match="--bootstrap-servers"):
        resolve(KafkaConfig(), tmp_path)


def test_a_kafka_that_is_still_to_come_is_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def come():
            write_address(tmp_path, os.getpid(), f"127.0.0.1:{port}")

        coming = threading.Timer(0.3, come)
        coming.start()
        found = resolve(KafkaConfig(start_wait_seconds=30), tmp_path)
        coming.join()
    assert found.bootstrap_servers == f"127.0.0.1:{port}"


def test_a_kafka_that_never_comes_is_named_in_the_end(tmp_path):
    with pytest.raises(UserError, match="ecdctr kafka"):
        resolve(KafkaConfig(start_wait_seconds=0.2), tmp_path)


@pytest.mark.parametrize("servers", ["127.0.0.1:²", "127.0.0.1:x"])
def test_a_port_is_a_number(servers):
    with pytest.raises(UserError, match="not host:port"):
        addresses(servers)


@pytest.mark.parametrize("servers", ["a..b:9092", "127.0.0.1:99999"])
def test_what_can_be_no_address_is_refused_in_one_line(servers):
    with pytest.raises(UserError, match="no Kafka answers"):
        wait_for_broker(KafkaConfig(bootstrap_servers=servers), timeout=0)
