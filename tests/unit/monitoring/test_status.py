import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from config import Config
from errors import UserError
from monitoring.exporter import Exporter
from monitoring.ledger import Ledger
from monitoring.monitor_settings import MonitorConfig
from monitoring.monitor_telemetry import MonitorTelemetry
from monitoring.monitor_told import Told
from monitoring.processes import Registration
from monitoring.scrape import watched
from monitoring.status import Observer, command, frames, to_json
from monitoring.telemetry import TrainerTelemetry
from streaming.impressions import ImpressionSchema

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with one live trainer and one that was killed."""
    registry = CollectorRegistry()
    TrainerTelemetry(registry, "actr").learnt(1234, 0.1, 0.3)
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    entry = {
        "pid": gone.pid,
        "created_at": psutil.Process(gone.pid).create_time(),
        "started_at": 1.0,
        "metrics_url": "http://127.0.0.1:1/metrics",
    }
    gone.wait()
    with Exporter(registry) as exporter, Registration(tmp_path, "train-actr-0", exporter.url):
        (tmp_path / "processes" / "simulate.json").write_text(json.dumps(entry))
        yield tmp_path


def run(run_dir, *arguments):
    return CliRunner().invoke(
        command, [*arguments, "--run-dir", str(run_dir)], catch_exceptions=False
    )


def started(run_dir, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "cli", "status", "--run-dir", str(run_dir), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")},
    )


def test_once_prints_one_frame_without_control_codes(run_dir):
    result = run(run_dir, "--once")
    assert result.exit_code == 0
    assert "1,234" in result.output
    assert "train-actr-0  running" in result.output
    assert "✗ simulate      dead" in result.output
    assert "\x1b" not in result.output


def test_json_is_valid_and_unknowns_are_null(run_dir):
    result = run(run_dir, "--once", "--json")
    frame = json.loads(result.output)
    assert frame["levels"][0]["impressions"] == 1234
    assert frame["levels"][0]["gauc"] is None
    assert [p["state"] for p in frame["processes"]] == ["dead", "running"]


def test_a_pipe_gets_a_line_an_interval_and_ctrl_c_ends_it(run_dir):
    child = started(run_dir, "--interval", "0.1")
    try:
        lines = [child.stdout.readline() for _ in range(3)]
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert all("learnt 1,234" in made and "\x1b" not in made for made in lines)
    assert (child.returncode, errors) == (0, "")


def test_nothing_running_is_one_line_with_the_way_out(tmp_path):
    child = started(tmp_path)
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, output) == (2, "")
    assert errors.count("\n") == 1
    assert "nothing runs in" in errors
    assert "ecdctr demo" in errors


def test_only_dead_ones_are_named(run_dir):
    (run_dir / "processes" / "train-actr-0.json").unlink()
    with pytest.raises(UserError, match=r"any more \(died: simulate\)"):
        Observer(Config(run_dir=run_dir)).require_processes()


def test_frames_end_with_the_last_process(run_dir):
    observer = Observer(Config(run_dir=run_dir))
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            (run_dir / "processes" / "train-actr-0.json").unlink()

    seen = list(frames(observer, 0.5, pause))
    assert pauses == [0.5, 0.5]
    assert [len(frame.processes) for frame in seen] == [2, 2, 1]
    assert all("\n" not in to_json(frame) for frame in seen)


def test_does_not_import_torch():
    code = "import monitoring.status, monitoring.quality, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_monitors_page_is_named_and_its_levels_are_no_trainers(run_dir):
    registry = CollectorRegistry()
    actr, cpm = Ledger(MonitorConfig(), ("actr", "cpm"), ImpressionSchema()).told()
    levels = (dataclasses.replace(actr, predictions=7), dataclasses.replace(cpm, predictions=5))
    MonitorTelemetry(registry).tell(Told(at=1.0, levels=levels))
    assert watched(run_dir, "actr") == 0
    with Exporter(registry) as exporter, Registration(run_dir, "monitor", exporter.url):
        found = json.loads(run(run_dir, "--once", "--json").output)
        assert found["message"] == f"The monitor's page: http://127.0.0.1:{exporter.port}/"
        assert [level["level"] for level in found["levels"]] == ["actr"]
        assert watched(run_dir, "actr") == 7
    assert json.loads(run(run_dir, "--once", "--json").output)["message"] == ""
