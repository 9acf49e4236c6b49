"""The monitor's loop: when it saves what it has taken, and when it must not."""

import contextlib
import threading

import pytest
from monitor_support import SCHEMA
from prometheus_client import CollectorRegistry

from config import Config
from monitoring import monitor_process
from monitoring.exporter import Progress
from monitoring.ledger import Ledger
from monitoring.monitor_checkpoint import read_state
from monitoring.monitor_process import _Monitor, state_dir
from monitoring.monitor_telemetry import MonitorTelemetry


class Topics:
    """Brings one record at every poll, up to a poll at which something happens."""

    away = False

    def __init__(self, happens):
        self._happens = happens
        self._polls = 0

    def ask(self):
        return 0

    def poll(self):
        self._polls += 1
        if self._polls == 3:
            self._happens()
        return 1

    def lag(self):
        return {}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a monitor at whose third poll something happens; its folder."""

    def ran(happens):
        stopping = threading.Event()
        topics = Topics(lambda: happens(stopping))
        monkeypatch.setattr(monitor_process, "MonitorTopics", lambda *more: topics)
        config = Config(run_dir=tmp_path)
        telemetry = MonitorTelemetry(CollectorRegistry())
        ledger = Ledger(config.monitor, ("actr",), SCHEMA)
        with contextlib.ExitStack() as stack:
            _Monitor(config, config.kafka, ledger, telemetry, Progress(), stopping, stack).run()

    return ran


def test_what_was_taken_is_saved_at_the_end(run, tmp_path):
    run(threading.Event.set)
    assert read_state(state_dir(tmp_path)) is not None


def test_nothing_is_saved_after_an_error_in_the_middle_of_a_turn(run, tmp_path):
    def breaks(stopping):
        raise RuntimeError("half of a turn")

    with pytest.raises(RuntimeError, match="half"):
        run(breaks)
    assert read_state(state_dir(tmp_path)) is None
