"""The composed stack, as far as no container engine is needed to know that it fits together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cli import cli
from config import Config
from settings import keys

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
OVERRIDE = ROOT / "docker" / "compose.test.yml"
STACK: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
OURS = {name: service for name, service in SERVICES.items() if "ECDCTR" in service["image"]}
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-([^}]*))?\}")
SECTIONS = {"KAFKA": "kafka", "MONITORING": "monitoring"}


def defaults() -> dict[str, str]:
    """What `.env` sets, by name."""
    lines = (ROOT / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("path", [COMPOSE, OVERRIDE], ids=lambda path: path.name)
def test_it_follows_the_schema(path):
    schema = json.loads((ROOT / "tests/data/compose_spec/compose_spec.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_every_variable_is_explained_and_has_the_default_that_is_told():
    found = dict(VARIABLE.findall(COMPOSE.read_text()))
    told = defaults()
    assert found.keys() == told.keys() - {"COMPOSE_PROFILES"}
    assert {name: told[name] for name in found} == found


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_ours(name):
    words = [VARIABLE.sub(r"\2", word) for word in OURS[name]["command"]]
    command = cli.get_command(None, words[0])
    assert command is not None, words[0]
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_ours_is_a_setting(name):
    known = keys(Config)
    for variable in OURS[name]["environment"].keys() - {"ECDCTR_CONFIG"}:
        assert variable.removeprefix("ECDCTR_").lower().replace("__", ".") in known


def test_the_configuration_named_is_in_the_image():
    path = Path(defaults()["ECDCTR_CONFIG"])
    assert (ROOT / path.relative_to("/app")).exists()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_and_comes_back(name):
    service = SERVICES[name]
    assert service["mem_limit"] and service["restart"] in ("unless-stopped", "on-failure")
    assert name == "topics" or "test" in service["healthcheck"]


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_are_by_health(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert how["condition"] in ("service_healthy", "service_completed_successfully")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_the_loopback_interface_alone(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


def test_what_is_mounted_from_here_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            there = (
                (ROOT / source).exists() if source.startswith(".") else source in STACK["volumes"]
            )
            assert there, source


def test_the_test_replaces_services_that_exist():
    replaced = yaml.safe_load(OVERRIDE.read_text())["services"]
    assert replaced.keys() <= SERVICES.keys()
    for name in replaced.keys() & OURS.keys():
        assert replaced[name].keys() == {"environment"}
