"""Debian's Prometheus beside a benchmark: our rules, thresholds and pace as they are shipped."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

FILES = Path(__file__).resolve().parents[1] / "monitoring" / "prometheus"
START_SECONDS = 60.0
# Loopback addresses must not go through a proxy that the environment names.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Prometheus:
    """Scrapes the processes that ``targets`` names, from construction until `close`."""

    def __init__(self, folder: Path, targets: Path) -> None:
        program = shutil.which("prometheus")
        if program is None:
            raise SystemExit("prometheus is not installed (Debian: prometheus)")
        folder.mkdir()
        address = f"127.0.0.1:{_free_port()}"
        self._url = f"http://{address}"
        self._log = folder / "log"
        command = [
            program,
            f"--config.file={_configuration(folder, targets)}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Prometheus does not start: {self._log.read_text()[-500:]}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            _open(f"{self._url}/-/ready", timeout=5).close()
        except OSError:
            return False
        return True

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an instant query gives now."""
        found = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def firing(self) -> set[str]:
        """Every alert that fires now, with its level where it has one."""
        alerts = [labels for labels, _ in self.ask('ALERTS{alertstate="firing"}')]
        return {f"{a['alertname']} {a.get('level', '')}".strip() for a in alerts}

    def _get(self, path: str) -> Any:
        with _open(self._url + path, timeout=30) as answer:
            return json.load(answer)["data"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _configuration(folder: Path, targets: Path) -> Path:
    """The shipped one, of these targets alone and without an Alertmanager."""
    config = yaml.safe_load((FILES / "prometheus.yml").read_text())
    del config["alerting"]
    config["rule_files"] = [str(FILES / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(targets)]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
