import math
import os
import socket

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from monitoring.exporter import Exporter
from monitoring.processes import Process
from monitoring.scrape import Rates, Scrape, SnapshotBuilder, kafka_state, parse, scrape, scrape_all
from monitoring.settings import MonitoringConfig
from monitoring.telemetry import SimulatorTelemetry, TrainerTelemetry
from monitoring.window import Window
from streaming.connection import KafkaConfig


def process(url="", alive=True, name="train-actr-0", started_at=100.0):
    created = psutil.Process().create_time()
    return Process(name, os.getpid(), created, started_at, url, alive)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def trainer(rank=0, impressions=100, clicks_right=True):
    registry = CollectorRegistry()
    telemetry = TrainerTelemetry(registry, "actr", rank)
    window = Window(1000)
    probability = [0.1, 0.9] if clicks_right else [0.9, 0.1]
    for user in range(impressions // 2):
        window.update([user, user], [0, 1], probability, [0, 0])
    telemetry.quality(window.metrics())
    telemetry.learnt(impressions, 0.1, 0.3)
    telemetry.table("user_id", 0.5 if rank else 0.7, admitted=5, evicted=3)
    telemetry.dead_letters("bad_click", 2)
    telemetry.lag(10, 60.0 * (rank + 1))
    telemetry.watermark(1_000_000 * (rank + 1))
    return registry


def said(registry, **changes):
    return Scrape(process(**changes), parse(generate_latest(registry).decode()))


def test_scrapes_a_live_process_and_sees_it_stall():
    idle = [0.0]
    with Exporter(trainer(), MonitoringConfig(stalled_seconds=5), lambda: idle[0]) as exporter:
        got = scrape(process(exporter.url))
        assert (got.state, got.note) == ("running", "")
        assert {s.name: s.value for s in got.samples}["impressions_learnt_total"] == 100
        idle[0] = 7.0
        got = scrape(process(exporter.url))
        assert (got.state, got.note) == ("stalled", "no progress for 7.0 s (limit 5 s)")
        assert got.samples


def test_dead_silent_and_mute_processes_are_told_apart():
    unreachable = process(f"http://127.0.0.1:{closed_port()}/metrics")
    dead = process("http://127.0.0.1:1/metrics", alive=False)
    states = [one.state for one in scrape_all([unreachable, dead, process("")])]
    assert states == ["no answer", "dead", "running"]
    assert scrape_all([]) == []


def test_one_that_hangs_is_said_to():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/metrics"
        got = scrape(process(url), timeout=0.05)
    assert (got.state, got.note) == ("no answer", "hangs, or is very busy")


def test_a_server_that_is_not_ours_is_no_answer(monkeypatch):
    monkeypatch.setattr("monitoring.exporter.generate_latest", lambda registry: b"<html>{{{")
    with Exporter(CollectorRegistry()) as exporter:
        assert scrape(process(exporter.url)).state == "no answer"


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    with Exporter(trainer()) as exporter:
        assert scrape(process(exporter.url)).state == "running"


def test_ranks_are_put_together():
    builder = SnapshotBuilder()
    scrapes = [said(trainer(0, 300)), said(trainer(1, 100, clicks_right=False))]
    snapshot = builder.build(scrapes, at=160.0, kafka="up")
    (level,) = snapshot.levels
    assert level.impressions == 400
    assert level.gauc == pytest.approx(0.75)
    assert level.lag_records == 20
    assert level.lag_seconds == 120
    assert level.event_time == 2000
    (table,) = level.tables
    assert (table.name, table.occupancy, table.evictions) == ("user_id", 0.6, 6)
    assert snapshot.dead_letters == {"bad_click": 4}
    assert snapshot.processes[0].age_seconds == 60
    assert snapshot.gauc[0] == pytest.approx(0.75)


def test_levels_and_the_market_stand_side_by_side():
    registry = trainer()
    TrainerTelemetry(registry, "tpm").learnt(7, 0.1, 0.2)
    market = CollectorRegistry()
    SimulatorTelemetry(market).produced("impressions.ad", 50, 0)
    snapshot = SnapshotBuilder().build([said(registry), said(market, name="simulate")], at=1.0)
    assert [level.level for level in snapshot.levels] == ["actr", "tpm"]
    assert snapshot.levels[1].impressions == 7
    assert math.isnan(snapshot.levels[1].gauc)
    assert snapshot.produced == {"impressions.ad": 50}


def test_a_dead_process_has_no_age_and_no_numbers():
    snapshot = SnapshotBuilder().build([scrape(process(alive=False))], at=200.0)
    (dead,) = snapshot.processes
    assert dead.state == "dead"
    assert math.isnan(dead.age_seconds)
    assert snapshot.levels == ()


def test_rates_are_over_the_last_seconds_and_survive_a_restart():
    rates = Rates(span_seconds=10)
    assert math.isnan(rates.update("a", 0, 1000))
    assert rates.update("a", 1, 1100) == 100
    for second in range(2, 40):
        rate = rates.update("a", second, 1100 + 50 * (second - 1))
    assert rate == pytest.approx(50)
    assert math.isnan(rates.update("a", 40, 0))
    assert rates.update("a", 42, 20) == 10
    assert math.isnan(rates.update("b", 42, 20))


def test_kafka_is_up_down_or_unknown():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert kafka_state(KafkaConfig(bootstrap_servers=f"127.0.0.1:{port}")) == "up"
    assert kafka_state(KafkaConfig(bootstrap_servers=f"127.0.0.1:{closed_port()}")) == "down"
    assert kafka_state(KafkaConfig()) == ""
    assert kafka_state(None) == ""
