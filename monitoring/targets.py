"""`ecdctr targets`: tell Prometheus where the processes of a run directory are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from config import Config, configured
from errors import UserError
from monitoring.processes import Process, running
from settings import Loaded


@click.command("targets")
@configured
def command(loaded: Loaded[Config]) -> None:
    """Write RUN_DIR/prometheus/targets.json, which Prometheus reads again by itself.

    Once, for the processes that run now; a demo keeps it up to date.
    """
    run_dir = loaded.config.run_dir
    if not run_dir.is_dir():
        raise UserError(f"there is no run directory {run_dir}; name another with --run-dir")
    path = write_targets(run_dir)
    click.echo(f"{path}: {len(targets(running(run_dir)))} processes")


def write_targets(run_dir: Path) -> Path:
    """Write what Prometheus' `file_sd_configs` read, unless it says so already.

    A process that died stays, so that its absence is seen; one that ended cleanly goes.

    Raises:
        UserError: the file cannot be written.
    """
    path = run_dir / "prometheus" / "targets.json"
    text = json.dumps(targets(running(run_dir)), indent=2) + "\n"
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")  # half a file would be an error of Prometheus'
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def targets(processes: list[Process]) -> list[dict[str, Any]]:
    """One target with the label `process` for each process that serves metrics."""
    return [
        {"targets": [address], "labels": {"process": process.name}}
        for process in processes
        if (address := _address(process.metrics_url))
    ]


def _address(url: str) -> str:
    """Host and port; empty: there is none."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
