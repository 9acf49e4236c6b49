"""`ecdctr config`: what is in force, and who said so."""

from __future__ import annotations

import json
from typing import Any

import click

from config import Config, configured
from settings import Loaded, flatten

SECRETS = ("password", "secret", "token")


@click.command("config")
@configured
def command(loaded: Loaded[Config]) -> None:
    """Print every setting, its value and where the value is from."""
    values = flatten(loaded.config.model_dump(mode="json"))
    rows = [(key, _text(key, value), loaded.origin(key)) for key, value in values.items()]
    width = max(len(key) for key, _, _ in rows)
    for key, value, origin in rows:
        click.echo(f"{key:<{width}} = {value}  # {origin}")


def _text(key: str, value: Any) -> str:
    if any(word in key for word in SECRETS):
        return '"(hidden)"'
    return json.dumps(value)
