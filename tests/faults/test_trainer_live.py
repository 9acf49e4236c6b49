"""A trainer without an end in sight: silent partitions, idle hours, new impressions."""

from __future__ import annotations

import json
import signal
import time
import urllib.request

import pytest
from tests_support import run_ecdctr
from trainer_support import BATCH, SETTINGS, Home, predictions_of, wait_until, write_impressions

from monitoring.processes import running
from streaming.writer import RecordWriter

STALLED_SECONDS = 4.0


def predicted(home: Home, count: int) -> None:
    found = None
    deadline = time.monotonic() + 60
    while found is None or len(found.impression_N) < count:
        assert time.monotonic() < deadline, f"{found} within a minute"
        time.sleep(0.2)
        found = predictions_of(home.kafka, home.topics)
    assert found.impression_N.tolist() == list(range(count)) and found.repeated == 0


@pytest.mark.timeout(120)
def test_it_goes_on_when_there_is_more(nursery, mortal_kafka, own_topics, tmp_path):
    settings = f"[monitoring]\nstalled_seconds = {STALLED_SECONDS}\n{SETTINGS}"
    home = Home(nursery, mortal_kafka.config, own_topics, tmp_path, settings)
    life = home.live(until_end=False)
    with RecordWriter(home.kafka) as writer:
        at = write_impressions(writer, own_topics.ad, 0, 6 * BATCH)
        predicted(home, at)
        idle_since = time.monotonic()
        wait_until(lambda: time.monotonic() > idle_since + 1.2 * STALLED_SECONDS, 60, "idleness")
        (process,) = running(home.run_dir)
        assert process.name == "train-actr" and process.alive and process.pid == life.pid
        health = process.metrics_url.replace("/metrics", "/healthz")
        with urllib.request.urlopen(health, timeout=10) as answer:
            assert answer.status == 200 and answer.read() == b"ok\n"
        # Three partitions stay silent, and do not hold the fourth back for good.
        at = write_impressions(writer, own_topics.ad, at, 3 * BATCH, partitions=(1,))
        predicted(home, at)
        at = write_impressions(writer, own_topics.ad, at, 4 * BATCH)
        predicted(home, at)
    status = run_ecdctr(
        *("status", "--once", "--json", "--config", str(home.config_path)),
        *("--run-dir", str(home.run_dir), "--bootstrap-servers", home.kafka.bootstrap_servers),
    )
    assert status.returncode == 0, status.stderr
    shown = json.loads(status.stdout)
    (trainer,) = shown["processes"]
    assert (trainer["name"], trainer["state"]) == ("train-actr", "running")
    (level,) = shown["levels"]
    assert level["impressions"] == at and level["lag_records"] == 0
    life.signal(signal.SIGTERM)
    assert life.end() == 0 and not life.complaints()
    assert home.newest().progress.impressions == at
