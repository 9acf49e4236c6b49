"""A real Prometheus scrapes every process's metrics: no query is an error, no panel is empty."""

import math
from contextlib import ExitStack

import pytest
from prometheus_server import (
    Prometheus,
    alert_queries,
    asked_series,
    mark_queries,
    panel_queries,
    past,
)
from prometheus_support import rules, tool
from telemetry_support import every_process
from tests_support import eventually

from monitoring.exporter import Exporter
from monitoring.processes import Registration
from monitoring.targets import write_targets

GAUC = "ecdctr_monitor_gauc_ratio"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    for name in ("prometheus", "promtool"):
        tool(name)
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        processes = every_process()
        for process in processes:
            process.tell()
            exporter = stack.enter_context(Exporter(process.registry))
            stack.enter_context(Registration(folder, process.name, exporter.url))
        history = past(GAUC, 'level="actr",window="1d"', 0.75)
        server = stack.enter_context(Prometheus(folder, write_targets(folder), history))
        eventually(lambda: server.scraped(len(processes), 2), 60, "every process scraped")
        for process in processes:
            process.tell()
        eventually(lambda: server.scraped(len(processes), 5), 60, "scraped again")
        eventually(server.evaluated, 60, "every recording rule has a value")
        yield server


def test_no_panel_is_empty(prometheus):
    asked = panel_queries()
    assert len(asked) > 40
    assert [query for query in asked if not known(prometheus.ask(query))] == []


def test_hand_downs_and_drift_alarms_are_marked(prometheus):
    marked = {query: known(prometheus.ask(query)) for query in mark_queries()}
    assert [query for query, there in marked.items() if "ALERTS" not in query and not there] == []


def test_alerts_look_at_something(prometheus):
    for expression, bare in alert_queries():
        prometheus.ask(expression)
        assert bare != expression
        assert known(prometheus.ask(bare)), bare


def test_every_series_that_is_asked_for_is_there(prometheus):
    missing = {series for series in asked_series() if not prometheus.ask(f"count({series})")}
    assert missing == set()


def test_every_rule_is_loaded_and_healthy(prometheus):
    groups = prometheus.get("/api/v1/rules")["data"]["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert len(loaded) == len(rules("alert")) + len(rules("record"))
    assert {(rule["health"], rule.get("lastError", "")) for rule in loaded} == {("ok", "")}


def test_the_week_before_is_what_the_gauc_is_held_against(prometheus):
    (week,) = prometheus.ask(f'level:{GAUC}:last_week{{level="actr"}}')
    assert week == pytest.approx(0.75)


def known(values):
    return any(not math.isnan(value) for value in values)
