"""How the demo ends: it waits for the monitor, but not for ever."""

import shlex
from types import SimpleNamespace

import click
import pytest

from config import Config
from monitoring import demo as module
from monitoring.demo import DEMO_CONFIG, Demo
from settings import load


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A demo whose monitor has read 10, 40, 70, ... predictions, and what it said."""
    made = Demo(load(Config, DEMO_CONFIG, {}, [f"run_dir={tmp_path}"]), minutes=1)
    made.monitor = SimpleNamespace(running=True)
    made.stopping = SimpleNamespace(is_set=lambda: False, wait=lambda seconds: None)
    made.read = iter(range(10, 1_000, 30))
    made.said = []
    monkeypatch.setattr(made, "_say", made.said.append)
    monkeypatch.setattr(module, "watched", lambda run_dir, level: next(made.read))
    return made


def test_it_waits_until_the_monitor_has_read_all(demo):
    demo._wait_for_monitor(100)
    assert demo.said == ["waiting for the monitor"]
    assert next(demo.read) == 130


def test_a_monitor_that_is_there_in_time_is_not_spoken_of(demo):
    demo._wait_for_monitor(10)
    assert demo.said == []


def test_after_a_while_it_says_how_far_the_monitor_came(demo, monkeypatch):
    monkeypatch.setattr(module, "MONITOR_SECONDS", -1.0)
    demo._wait_for_monitor(100)
    assert demo.said == ["the monitor has read 10 of 100 predictions"]


def test_a_monitor_that_is_gone_is_not_waited_for(demo):
    demo.monitor.running = False
    demo._wait_for_monitor(100)
    assert next(demo.read) == 10


@pytest.mark.parametrize(
    ("called", "found", "told"),
    [
        (".venv/bin/ecdctr", None, ".venv/bin/ecdctr"),
        (".venv/bin/ecdctr", "/usr/bin/ecdctr", ".venv/bin/ecdctr"),
        ("/usr/bin/ecdctr", "/usr/bin/ecdctr", "ecdctr"),
        ("cli.py", None, "ecdctr"),
    ],
)
def test_what_it_tells_to_type_works_as_it_is(monkeypatch, called, found, told):
    monkeypatch.setattr(module.sys, "argv", [called, "demo"])
    monkeypatch.setattr(module.shutil, "which", lambda name: found)
    assert module._typed() == told


def test_what_it_tells_to_type_goes_on_with_the_same_flags(tmp_path):
    arguments = ("--config=my demo.toml", f"--set=run_dir={tmp_path}")
    words = shlex.split(module._resuming(0.6, arguments))
    with click.Context(module.command) as context:
        parsed = module.command.make_parser(context).parse_args(words[2:])[0]
    assert parsed["resume"] and parsed["minutes"] == "0.6"
    assert parsed["config_path"] == "my demo.toml"
    assert parsed["overrides"] == [f"run_dir={tmp_path}"]
