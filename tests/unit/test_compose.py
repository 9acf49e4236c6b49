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


def prometheus_settings() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        (ROOT / "monitoring/prometheus/prometheus.compose.yml").read_text()
    )
    return found


def mounted(service: str) -> dict[str, str]:
    """Path in the container to what is mounted there."""
    pairs = (volume.split(":") for volume in SERVICES[service]["volumes"])
    return {pair[1]: pair[0] for pair in pairs}


def test_prometheus_watches_every_process_of_ours_by_its_name_and_port():
    (job,) = prometheus_settings()["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    names = {target.partition(":")[0] for target in targets}
    names |= {name for group in job["dns_sd_configs"] for name in group["names"]}
    lasting = {name for name in OURS if name != "topics" and not name.endswith("-gpu")}
    assert names == lasting
    ports = {target.partition(":")[2] for target in targets}
    ports |= {str(group["port"]) for group in job["dns_sd_configs"]}
    assert ports == {STACK["x-ecdctr"]["environment"]["ECDCTR_MONITORING__PORT"]}


def test_a_gpu_trainer_has_the_name_of_the_one_in_whose_place_it_is():
    for name in OURS:
        if name.endswith("-gpu"):
            assert SERVICES[name]["networks"]["default"]["aliases"] == [name.removesuffix("-gpu")]


def test_prometheus_reads_the_file_that_is_mounted():
    (flag,) = (f for f in SERVICES["prometheus"]["command"] if f.startswith("--config.file="))
    path = Path(flag.partition("=")[2])
    folder = ROOT / mounted("prometheus")[str(path.parent)]
    assert (folder / path.name).exists()
    for rules in prometheus_settings()["rule_files"]:
        assert (folder / rules).exists()


def test_prometheus_knows_alertmanager():
    (known,) = prometheus_settings()["alerting"]["alertmanagers"]
    assert known["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    assert any(port.endswith(":9093") for port in SERVICES["alertmanager"]["ports"])


def test_grafana_finds_prometheus_and_the_dashboards():
    provisioning = ROOT / mounted("grafana")["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "${PROMETHEUS_URL}"
    assert SERVICES["grafana"]["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/ecdctr.yml").read_text())["providers"]
    folder = ROOT / mounted("grafana")[provider["options"]["path"]]
    assert len(list(folder.glob("*.json"))) >= 3
