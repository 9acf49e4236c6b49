"""A real Alertmanager: what is held back while a process is gone, and what is not."""

import pytest
from prometheus_server import Server, free_port
from prometheus_support import FILES, tool
from tests_support import eventually


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alertmanager")
    address = f"127.0.0.1:{free_port()}"
    command = [
        tool("prometheus-alertmanager"),
        f"--config.file={FILES / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with Server(folder, command, f"http://{address}/-/ready") as server:
        yield server


def alert(name, severity="ticket", **labels):
    return {"labels": {"alertname": name, "severity": severity, **labels}}


def key(labels):
    return labels["alertname"], labels["severity"], labels.get("level", "")


def test_a_gone_process_explains_its_levels_stale_model_and_lag_only(alertmanager):
    sent = [
        alert("ProcessGone", "page", process="train-actr", level="actr"),
        alert("ProcessGone", "page", process="refresher"),
        alert("ModelStale", "page", level="actr"),
        alert("LagGrowing", level="actr"),
        alert("LagGrowing", level="cpm"),
        alert("ScoresBudgetBurn", "page", level="actr"),
        alert("HistoryStale"),
        alert("DeadLetters", level="actr", reason="bad-click"),
        alert("GaucFallen", "page", level="actr"),
        alert("FreshnessBudgetBurn", "page", level="tpm", window="1h"),
        alert("FreshnessBudgetBurn", level="tpm", window="3d"),
    ]
    alertmanager.post("/api/v2/alerts", sent)
    eventually(lambda: len(alertmanager.get("/api/v2/alerts")) == len(sent), 30, "all arrived")
    held_back = {
        key(found["labels"])
        for found in alertmanager.get("/api/v2/alerts")
        if found["status"]["inhibitedBy"]
    }
    assert held_back == {
        ("ModelStale", "page", "actr"),
        ("LagGrowing", "ticket", "actr"),
        ("ScoresBudgetBurn", "page", "actr"),
        ("HistoryStale", "ticket", ""),
        ("FreshnessBudgetBurn", "ticket", "tpm"),
    }


def test_pages_and_tickets_go_different_ways(alertmanager):
    sent = [alert("GaucUndefined", "page", level="cpm"), alert("CalibrationOff", level="cpm")]
    alertmanager.post("/api/v2/alerts", sent)
    names = {one["labels"]["alertname"] for one in sent}

    def found():
        known = alertmanager.get("/api/v2/alerts")
        return [one for one in known if one["labels"]["alertname"] in names]

    eventually(lambda: len(found()) == len(sent), 30, "both arrived")
    ways = {(a["labels"]["severity"], r["name"]) for a in found() for r in a["receivers"]}
    assert ways == {("page", "page"), ("ticket", "ticket")}
