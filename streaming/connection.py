"""How to reach Kafka: one section, passed through to kafka-python."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from settings import Section


class KafkaConfig(Section):
    bootstrap_servers: str = ""
    """`host:port,host:port` of a cluster; empty: the embedded Kafka of this run directory."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """As in kafka-python."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More of kafka-python's settings for every client, such as `sasl_mechanism`,
    `sasl_plain_username`, `sasl_plain_password`, `ssl_cafile`."""
    reconnect_backoff_max_ms: int = Field(1_000, ge=50)
    """Longest pause between two attempts to reach a broker, ms."""
    start_wait_seconds: float = Field(0.0, ge=0, le=86_400)
    """How long a process that starts waits for Kafka to be there, seconds."""
