"""Debian's promtool, amtool, Prometheus and Alertmanager, and our files for them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests_support import ROOT

FILES = ROOT / "monitoring" / "prometheus"
TESTS = sorted((FILES / "tests").glob("*.yml"))
SELECTOR = re.compile(r"[a-zA-Z_][\w:]*(?:\{[^}]*\})?")
OURS = re.compile(r"(?:\w+:)?ecdctr_|process_|up\b")


def tool(name: str) -> str:
    """The program's path; the test is skipped where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
    return path


def run_tool(name: str, *arguments: str | Path, text: str | None = None) -> str:
    """What the program prints; fails with it when the exit status is not 0."""
    command = [tool(name), *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules(kind: str) -> list[dict[str, Any]]:
    """Every rule of a `kind`, "alert" or "record"."""
    files = [yaml.safe_load((FILES / name).read_text()) for name in ("recording.yml", "alerts.yml")]
    return [
        rule
        for file in files
        for group in file["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


def selectors(expression: str) -> set[str]:
    """Our series that a query asks for, with their label matchers."""
    return {s for s in SELECTOR.findall(expression) if OURS.match(s)}


def names(expression: str) -> set[str]:
    return {selector.split("{")[0] for selector in selectors(expression)}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Every query of every panel."""
    return [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]


def marks(dashboard: dict[str, Any]) -> list[str]:
    """The queries of the marks, which are empty while nothing happens."""
    return [mark["expr"] for mark in dashboard["annotations"]["list"]]
