import ssl

import pytest
from faust.auth import GSSAPICredentials, SASLCredentials, SSLCredentials

from embeddings.refresh_faust import app_id, credentials, make_app, max_message_bytes
from errors import UserError
from streaming.connection import KafkaConfig
from streaming.topics import TopicsConfig


def kafka(protocol="PLAINTEXT", **options):
    return KafkaConfig(
        bootstrap_servers="one:1,[::1]:2,three", security_protocol=protocol, options=options
    )


def test_a_plain_connection_has_no_credentials():
    assert credentials(kafka()) is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl(protocol, mechanism):
    found = credentials(
        kafka(
            protocol,
            sasl_mechanism=mechanism,
            sasl_plain_username="me",
            sasl_plain_password="secret",
        )
    )
    assert isinstance(found, SASLCredentials)
    assert (found.protocol.value, found.mechanism.value) == (protocol, mechanism)
    assert (found.username, found.password) == ("me", "secret")
    assert (found.ssl_context is not None) == (protocol == "SASL_SSL")


def test_kerberos():
    found = credentials(
        kafka("SASL_PLAINTEXT", sasl_mechanism="GSSAPI", sasl_kerberos_service_name="broker")
    )
    assert isinstance(found, GSSAPICredentials)
    assert found.kerberos_service_name == "broker"


def test_tls_follows_kafka_pythons_settings():
    found = credentials(kafka("SSL", ssl_check_hostname=False))
    assert isinstance(found, SSLCredentials)
    assert found.context.verify_mode is ssl.CERT_REQUIRED
    assert not found.context.check_hostname
    own = ssl.create_default_context()
    assert credentials(kafka("SSL", ssl_context=own)).context is own


@pytest.mark.parametrize(
    ("protocol", "options", "words"),
    [
        ("SASL_SSL", {"sasl_mechanism": "AWS_MSK_IAM"}, "cannot use 'AWS_MSK_IAM'"),
        ("SASL_PLAINTEXT", {}, "cannot use None"),
        ("SSL", {"ssl_cafile": "/no/such/file"}, "TLS cannot be set up"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(protocol, options, words):
    with pytest.raises(UserError, match=words):
        credentials(kafka(protocol, **options))


def test_the_app_has_our_settings(tmp_path):
    topics = TopicsConfig(snapshots="my snapshots.1", replication=3)
    app = make_app(kafka(max_request_size=5_000_000), topics, tmp_path)
    assert app.conf.id == app_id(topics) == "ecdctr-refresher-my_snapshots.1"
    assert [str(url) for url in app.conf.broker] == [
        "kafka://one:1",
        "kafka://[::1]:2",
        "kafka://three:9092",
    ]
    assert app.conf.broker_session_timeout == 6.0
    assert app.conf.broker_heartbeat_interval == 1.0
    assert app.conf.processing_guarantee.value == "at_least_once"
    assert app.conf.producer_max_request_size == max_message_bytes(
        kafka(max_request_size=5_000_000)
    )
    assert app.conf.topic_replication_factor == 3
