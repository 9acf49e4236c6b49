"""A real Prometheus beside the running demo: in the end no query of ours is empty or an error."""

import math
import time

import pytest
from prometheus_server import (
    Prometheus,
    alert_queries,
    asked_series,
    bare,
    mark_queries,
    panel_queries,
    past,
)
from prometheus_support import tool
from tests_support import ECDCTR, environ

from supervisor import Child

MINUTES = 4
SECONDS = MINUTES * 60 + 120  # on a machine with much else to do
STOP_SECONDS = 120
WITHOUT_A_VALUE_WHILE_ALL_IS_WELL = {
    'ALERTS{alertstate="firing"}',  # Prometheus' own: there while an alert fires
    "count(ecdctr_drift_alarm_event_time_seconds)",  # when the last one was; its panel says so
}

# The demo is minutes old: what the day's GAUC was held against a week ago is written beforehand.
LAST_WEEK = past("ecdctr_monitor_gauc_ratio", 'level="actr",window="1d"', 0.75)


@pytest.fixture
def demo(tmp_path):
    for name in ("prometheus", "promtool"):
        tool(name)
    run_dir = tmp_path / "demo"
    command = [*ECDCTR, "demo", "--minutes", str(MINUTES), "--run-dir", str(run_dir)]
    child = Child("demo", command, tmp_path / "demo.log", environ=environ())
    child.start()
    yield child, run_dir
    child.stop(STOP_SECONDS)


@pytest.fixture
def prometheus(demo, tmp_path):
    targets = demo[1] / "prometheus" / "targets.json"
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with Prometheus(folder, targets, LAST_WEEK, every="5s") as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + STOP_SECONDS + 120)
def test_the_running_demo_answers_every_query(demo, prometheus):
    child, _ = demo
    queries = asked()
    assert len(queries) > 100
    deadline = time.monotonic() + SECONDS
    while silent := [query for query in queries if not known(prometheus.ask(query))]:
        assert child.running, f"ended without {silent}: {child.last_words(9)}"
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {silent}"
        time.sleep(2)
    for expression, _ in alert_queries():
        prometheus.ask(expression)


def asked():
    """Everything that must have a value together; of comparisons what they compare."""
    marks = {bare(query) for query in mark_queries()}
    alerts = {compared for _, compared in alert_queries()}
    series = {f"count({one})" for one in asked_series()}
    every = {*panel_queries(), *marks, *alerts, *series}
    assert every > WITHOUT_A_VALUE_WHILE_ALL_IS_WELL
    return sorted(every - WITHOUT_A_VALUE_WHILE_ALL_IS_WELL)


def known(values):
    return any(not math.isnan(value) for value in values)
