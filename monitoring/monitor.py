"""`ecdctr monitor`: the quality of all levels, watched."""

from __future__ import annotations

import logging

import click
from prometheus_client import CollectorRegistry

from config import Config, configured
from settings import Loaded
from shutdown import stop_event


@click.command("monitor")
@click.option(
    "--report",
    is_flag=True,
    help="Print the published versions by calibration, from the running monitor's last "
    "checkpoint, and end.",
)
@configured
def command(loaded: Loaded[Config], report: bool) -> None:
    """Watch how good the predictions of all levels are.

    Reads predictions.<level> and models.<level> and computes GAUC, AUC, log loss, normalized
    entropy, COPC (clicks over predicted clicks) and CTR over windows of event time
    (monitor.windows_seconds) and for each of the last published versions
    (monitor.generations), exactly, and how long it took from an impression's append to Kafka
    until it was learnt and until that was published.

    Watches both domains for drift (drift.*): signals of the predictions by detectors, features
    and scores by their distance from the days before; alarms are on the page and in the metrics.
    With drift.closes_loop an alarm asks TPM and CPM for an early refresh (drift.early.*).

    A page for people, at the address that it prints, shows all of it and which version is
    worst calibrated, and since when; `/metrics` beside it is for Prometheus; `--report`
    answers that question in the terminal.

    Its windows and counters are kept in RUN_DIR/monitor every
    monitor.checkpoint_every_seconds: killed at any moment, it goes on where it was and
    tells the same numbers. Ctrl-C or SIGTERM ends it with status 0.
    """
    from monitoring.control_sender import ControlSender
    from monitoring.drift_observer import DriftObserver
    from monitoring.drift_telemetry import DriftTelemetry
    from monitoring.monitor_process import monitor
    from monitoring.monitor_report import report_lines
    from streaming.kafka_clients import resolve
    from streaming.writer import RecordWriter

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if report:
        for line in report_lines(loaded.config):
            click.echo(line)
        return
    config = loaded.config

    if not config.drift.enabled:
        monitor(config, stop_event())
        return
    logging.getLogger("monitoring.drift_observer").setLevel(logging.INFO)  # what it decides

    def writer() -> RecordWriter:
        return RecordWriter(resolve(config.kafka, config.run_dir))

    with ControlSender(writer, config.topics.control) as sender:

        def observers(registry: CollectorRegistry) -> list[DriftObserver]:
            telemetry = DriftTelemetry(registry)
            return [DriftObserver(config.drift, config.impressions, telemetry, sender)]

        monitor(config, stop_event(), observers)
