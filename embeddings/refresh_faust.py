"""Faust as the refresher uses it: settings, credentials, and where reading begins.

Faust begins reading at the consumer group's commits. Ours begins where the table ends:
a commit says nothing about a table that its changelog has lost.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import faust
from faust.auth import GSSAPICredentials, OAuthCredentials, SASLCredentials, SSLCredentials
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types import TP

from errors import UserError
from streaming.connection import KafkaConfig
from streaming.kafka_clients import addresses
from streaming.topics import TopicsConfig

SESSION_SECONDS = 6.0
"""After this long a worker that was killed hard loses its partitions to the others."""
HEARTBEAT_SECONDS = 1.0
MAX_MESSAGE_BYTES = 1_048_576
"""What a broker takes by default; `kafka.options.max_request_size` says otherwise."""

Positions = Callable[[Iterable[int]], Awaitable[Mapping[int, int]]]
"""Partitions of the snapshots to the offsets at which their reading begins."""


class PositionedConsumer(Consumer):
    """Asked for the commits when tables are recovered and nothing has been delivered yet."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        app: Any = self.app
        own = [tp for tp in self.assignment() if tp.topic == app.followed]
        # The fetcher runs already, and would deliver from the places in between.
        self.pause_partitions(own)
        places = dict(await super().seek_to_committed())
        begin = await app.positions([tp.partition for tp in own])
        chosen = {tp: begin[tp.partition] for tp in own if tp.partition in begin}
        if chosen:
            await self.seek_wait(chosen)
        self.resume_partitions(own)
        return {**places, **chosen}


class PositionedTransport(Transport):
    Consumer = PositionedConsumer


class App(faust.App):
    """A Faust app that reads a topic from where ``positions`` says, whatever was committed."""

    followed: str
    positions: Positions

    def _new_transport(self) -> Any:
        return PositionedTransport(self.conf.broker_consumer, self)


class RawTable(faust.Table):
    """Keys and values are bytes, which Faust would otherwise turn into JSON."""

    def _serializer_from_type(self, typ: Any) -> str:
        return "raw"


def app_id(topics: TopicsConfig) -> str:
    """The worker group's name: workers of the same snapshots share them out."""
    return "ecdctr-refresher-" + re.sub(r"[^A-Za-z0-9._-]", "_", topics.snapshots)


def make_app(kafka: KafkaConfig, topics: TopicsConfig, data_dir: Path) -> App:
    """At-least-once, tables in memory, no web server, no topics of its own making.

    Raises:
        UserError: `kafka.options` that Faust cannot follow.
    """
    app = App(
        app_id(topics),
        broker=[
            f"kafka://{_host(host)}:{port}" for host, port in addresses(kafka.bootstrap_servers)
        ],
        broker_credentials=credentials(kafka),
        broker_session_timeout=SESSION_SECONDS,
        broker_heartbeat_interval=HEARTBEAT_SECONDS,
        broker_request_timeout=30.0,
        consumer_auto_offset_reset="earliest",
        datadir=data_dir,
        key_serializer="raw",
        value_serializer="raw",
        processing_guarantee="at_least_once",
        producer_max_request_size=max_message_bytes(kafka),
        store="memory://",
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=topics.partitions,
        topic_replication_factor=topics.replication,
        web_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
        Table=RawTable,
    )
    app.followed = topics.snapshots
    return app


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def max_message_bytes(kafka: KafkaConfig) -> int:
    return int(kafka.options.get("max_request_size", MAX_MESSAGE_BYTES))


def credentials(kafka: KafkaConfig) -> Any:
    """kafka-python's settings as Faust's credentials; None for a plain connection.

    Raises:
        UserError: a mechanism or file that cannot be used.
    """
    options, protocol = kafka.options, kafka.security_protocol
    context = _tls(options) if protocol.endswith("SSL") else None
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return SSLCredentials(context)
    mechanism = options.get("sasl_mechanism")
    if mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        return SASLCredentials(
            username=options.get("sasl_plain_username"),
            password=options.get("sasl_plain_password"),
            ssl_context=context,
            mechanism=mechanism,
        )
    if mechanism == "GSSAPI":
        return GSSAPICredentials(
            kerberos_service_name=options.get("sasl_kerberos_service_name", "kafka"),
            kerberos_domain_name=options.get("sasl_kerberos_domain_name"),
            ssl_context=context,
            mechanism=mechanism,
        )
    if mechanism == "OAUTHBEARER" and "sasl_oauth_token_provider" in options:
        provider = options["sasl_oauth_token_provider"]
        return OAuthCredentials(oauth_cb=provider, ssl_context=context)
    raise UserError(
        f"kafka.options.sasl_mechanism: the refresher cannot use {mechanism!r}; PLAIN, "
        "SCRAM-SHA-256, SCRAM-SHA-512 and GSSAPI can be used"
    )


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    """As kafka-python makes its own of the same settings."""
    if options.get("ssl_context") is not None:
        context: ssl.SSLContext = options["ssl_context"]
        return context
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_cafile"))
        context.check_hostname = bool(options.get("ssl_check_hostname", True))
        if options.get("ssl_certfile"):
            context.load_cert_chain(
                options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password")
            )
        if options.get("ssl_crlfile"):
            context.load_verify_locations(options["ssl_crlfile"])
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (OSError, ValueError) as error:
        raise UserError(f"kafka.options: TLS cannot be set up: {error}") from error
    return context
