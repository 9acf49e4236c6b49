"""Dashboards: what is committed is what the code makes, and it asks for metrics that there are."""

import json

import pytest
import yaml
from prometheus_support import marks, names, panels, queries, rules
from telemetry_support import declared_names
from tests_support import ROOT

from monitoring.dashboards.__main__ import DASHBOARDS, rendered

FOLDER = ROOT / "monitoring" / "dashboards" / "json"
GRAFANA = ROOT / "docker" / "grafana" / "provisioning"
SCREENS = ("model_quality", "drift_and_forgetting", "pipeline_health")


def dashboard(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", [*SCREENS, "runbook"])
def test_the_committed_json_is_what_the_code_makes(name):
    assert {f"{known}.json" for known in DASHBOARDS} == {path.name for path in FOLDER.iterdir()}
    assert (FOLDER / f"{name}.json").read_text() == rendered(name), "run `make dashboards`"


@pytest.mark.parametrize("name", SCREENS)
def test_panels_fit_one_screen_side_by_side(name):
    taken = set()
    for panel in panels(dashboard(name)):
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) == 23
    assert max(y for _, y in taken) < 24


@pytest.mark.parametrize("name", SCREENS)
def test_the_answer_is_top_left_and_every_panel_has_a_unit_thresholds_and_help(name):
    shown = panels(dashboard(name))
    first = min(shown, key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))
    assert first["type"] == "stat"
    for panel in shown:
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] and defaults["thresholds"]["steps"], panel["title"]
        assert panel["description"] and panel["targets"], panel["title"]


@pytest.mark.parametrize("name", SCREENS)
def test_marks_links_and_few_variables(name):
    board = dashboard(name)
    named = {mark["name"] for mark in board["annotations"]["list"]}
    assert named == {"Hand-downs", "Drift alarms", "Alerts"}
    assert f"/d/{dashboard('runbook')['uid']}" in {link.get("url") for link in board["links"]}
    assert len(board["templating"].get("list", [])) <= 1


@pytest.mark.parametrize("name", SCREENS)
def test_every_metric_that_is_asked_for_is_declared(name):
    known = declared_names() | {rule["record"] for rule in rules("record")} | {"up"}
    for query in [*queries(dashboard(name)), *marks(dashboard(name))]:
        assert names(query) <= known, query


def test_the_alerts_that_panels_speak_of_exist():
    alerts = {rule["alert"] for rule in rules("alert")}
    told = " ".join(panel["description"] for name in SCREENS for panel in panels(dashboard(name)))
    assert all(alert in told for alert in alerts), [a for a in alerts if a not in told]


def test_the_runbook_is_there_section_by_section():
    titles = {panel["title"] for panel in panels(dashboard("runbook"))}
    assert titles == {rule["alert"] for rule in rules("alert")}


def test_grafana_finds_the_source_and_the_dashboards():
    (source,) = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    asked = {panel["datasource"]["uid"] for name in SCREENS for panel in panels(dashboard(name))}
    assert asked == {source["uid"]}
    (provider,) = yaml.safe_load((GRAFANA / "dashboards" / "ecdctr.yml").read_text())["providers"]
    assert provider["options"]["path"].startswith("/")
