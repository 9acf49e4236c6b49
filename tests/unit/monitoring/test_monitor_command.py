"""`ecdctr monitor`: what it puts together for drift."""

from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from cli import cli
from monitoring import control_sender, monitor_process
from monitoring.drift.watch import Alarm


class Sender(control_sender.ControlSender):
    """One that sends nothing, and is remembered."""

    made: list["Sender"] = []

    def __init__(self, open_writer, topic):
        super().__init__(open_writer, topic)
        self.topic, self.got, self.closed = topic, [], False
        self.made.append(self)

    def send(self, request):
        self.got.append(request)

    def close(self):
        super().close()
        self.closed = True


def run(monkeypatch, *flags):
    """What drift's observers do of an alarm, in place of the monitor's process."""
    seen = []

    def monitor(config, stopping, observers=lambda registry: ()):
        found = observers(CollectorRegistry())
        for observer in found:
            observer._alarmed([Alarm(1_700_000_000_000, "natural", "log_loss", "adwin", 1.0)])
        seen.append(found)

    Sender.made = []
    monkeypatch.setattr(monitor_process, "monitor", monitor)
    monkeypatch.setattr(control_sender, "ControlSender", Sender)
    result = CliRunner().invoke(cli, ["monitor", *(f"--set={flag}" for flag in flags)])
    assert result.exit_code == 0, result.output
    return seen[0], result.output


def test_one_flag_closes_the_loop(monkeypatch):
    flags = ("drift.closes_loop=true", "topics.control=my-control")
    (_,), _ = run(monkeypatch, *flags)
    (sender,) = Sender.made
    assert [request.ask for request in sender.got] == ["period", "hand-down"]
    assert sender.topic == "my-control" and sender.closed


def test_without_it_nothing_is_asked_for(monkeypatch):
    run(monkeypatch)
    (sender,) = Sender.made
    assert not sender.got and sender.closed


def test_without_drift_there_are_no_observers(monkeypatch):
    observers, _ = run(monkeypatch, "drift.enabled=false", "drift.closes_loop=true")
    assert observers == () and not Sender.made
