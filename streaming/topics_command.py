"""`ecdctr topics`: create what is missing of our topics."""

from __future__ import annotations

import click

from config import Config, configured
from settings import Loaded
from streaming.kafka_clients import resolve
from streaming.topic_admin import create_topics, topic_settings


@click.command("topics")
@configured
def command(loaded: Loaded[Config]) -> None:
    """Create the topics that are missing, each with its cleanup policy, and list all of them.

    Every process does so when it starts; this is for who wants them there first. A topic that
    exists is left as it is. `topics.partitions`, `topics.replication` and
    `topics.retention_hours` say how new ones are made.
    """
    config = loaded.config
    kafka = resolve(config.kafka, config.run_dir)
    created = set(create_topics(kafka, config.topics))
    for name, settings in topic_settings(config.topics).items():
        kept = ", ".join(f"{key}={value}" for key, value in settings.items())
        click.echo(f"{'created' if name in created else 'exists '} {name} ({kept})")
