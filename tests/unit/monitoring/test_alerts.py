"""Rules and routes, by the tools that come with Prometheus and Alertmanager."""

import inspect
import re

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_support import FILES, TESTS, names, rules, run_tool
from telemetry_support import declared_names, every_process, telemetry_classes
from tests_support import ROOT

ALERTS = rules("alert")
RUNBOOK = "{{ with $externalLabels.runbook }}{{ . }}{{ else }}docs/runbook.md{{ end }}"
NAMES = sorted({alert["alert"] for alert in ALERTS})


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.compose.yml"])
def test_the_configuration_and_its_rules_are_valid(name):
    run_tool("promtool", "check", "config", FILES / name)


def test_prometheus_looks_where_targets_are_written():
    (job,) = yaml.safe_load((FILES / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["file_sd_configs"]
    runs = {(FILES / file).resolve().parents[1] for file in found["files"]}
    assert runs == {ROOT / "run", ROOT / "run" / "demo"}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path):
    run_tool("promtool", "test", "rules", path)


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_tested_firing_and_not_firing(name):
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    outcomes = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == name}
    assert outcomes == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_it_saw_and_where_to_read_on(alert):
    told = alert["annotations"]
    assert (
        alert["labels"]["severity"] in ("page", "ticket") or "actr" in alert["labels"]["severity"]
    )
    assert told["summary"]
    assert "$value" in told["description"]
    assert told["runbook_url"] == f"{RUNBOOK}#{alert['alert'].lower()}"


def test_the_runbook_has_a_whole_section_for_each_alert_and_no_other():
    sections = re.split(r"^## ", (ROOT / "docs" / "runbook.md").read_text(), flags=re.M)[1:]
    assert sorted(section.split("\n")[0] for section in sections) == NAMES
    for section in sections:
        assert re.findall(r"^\*\*(.+?)\.\*\*", section, re.M) == ["Meaning", "First look", "Fix"]


def test_the_routes_lead_where_they_should():
    file = FILES / "alertmanager.yml"
    run_tool("amtool", "check-config", file)
    for severity in ("page", "ticket"):
        said = run_tool(
            "amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}"
        )
        assert said.split()[0] == severity


@pytest.mark.parametrize("process", every_process(), ids=lambda process: process.name)
def test_metrics_follow_prometheus_conventions(process):
    process.tell()
    page = generate_latest(process.registry).decode()
    assert run_tool("promtool", "check", "metrics", text=page) == ""


def test_every_telemetry_class_tells_all_it_can(monkeypatch):
    silent = set()
    for cls in telemetry_classes():
        public = [n for n, m in vars(cls).items() if inspect.isfunction(m) and n[0] != "_"]
        for name in public:
            silent.add((cls.__name__, name))
            monkeypatch.setattr(cls, name, _noting(silent, cls, name))
    assert len(silent) > 20
    for process in every_process():
        process.tell()
        generate_latest(process.registry)
    assert silent == set()


def _noting(silent, cls, name):
    method = getattr(cls, name)

    def noted(*arguments, **named):
        silent.discard((cls.__name__, name))
        return method(*arguments, **named)

    return noted


def test_series_are_bounded():
    total = 0
    for process in every_process():
        process.tell()
        process.tell()
        total += sum(len(family.samples) for family in process.registry.collect())
    assert total < 2_000


def test_every_name_in_a_rule_is_declared():
    known = declared_names() | {rule["record"] for rule in rules("record")} | {"up"}
    for rule in [*ALERTS, *rules("record")]:
        assert names(rule["expr"]), rule
        assert names(rule["expr"]) <= known, rule
