"""A real Prometheus over the processes of a run directory, with our rules, and all we ask of it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from prometheus_support import FILES, marks, queries, rules, run_tool, selectors, tool
from tests_support import ROOT, eventually

SCREENS = ("model_quality", "drift_and_forgetting", "pipeline_health")
VARIABLES = {"$level": "actr", "$__rate_interval": "1m", "$__range": "1h", "$__interval": "1s"}
_COMPARISON = re.compile(r"\s(?:>=|<=|==|>|<)\s+-?[\d.]+(?:\s\*\s[\d.]+)?")
_SEEN_BEFORE = re.compile(r"\sand [\w:]+ offset \w+")
# Loopback addresses must not go through a proxy that the environment names.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Server:
    """Any program that serves HTTP on a loopback port."""

    def __init__(self, folder: Path, command: list[str], ready: str) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
        self.url = ready.rsplit("/-/", 1)[0]
        try:
            eventually(lambda: self._answers(ready), 60, f"{ready}: {self.log}")
        except BaseException:
            self.close()
            raise

    def _answers(self, url: str) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            with _open(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, path: str, **query: str) -> Any:
        """What is answered, as JSON; an error is an answer too."""
        try:
            with _open(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def post(self, path: str, content: Any) -> None:
        request = urllib.request.Request(
            self.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        _open(request, timeout=30).close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Prometheus(Server):
    """Scrapes the targets of `targets` and evaluates all rules, each once in `every`."""

    def __init__(self, folder: Path, targets: Path, history: str = "", every: str = "1s") -> None:
        """`history`: series of the past as OpenMetrics text."""
        data = folder / "data"
        if history:
            (folder / "history").write_text(history)
            run_tool(
                "promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "history", data
            )
        address = f"127.0.0.1:{free_port()}"
        command = [
            tool("prometheus"),
            f"--config.file={_configuration(folder, targets, every)}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address={address}",
        ]
        super().__init__(folder, command, f"http://{address}/-/ready")

    def ask(self, query: str) -> list[float]:
        """The values that an instant query gives now; fails where it is an error."""
        answer = self.get("/api/v1/query", query=query)
        assert answer["status"] == "success", (query, answer)
        return [float(sample["value"][1]) for sample in answer["data"]["result"]]

    def scraped(self, processes: int, times: int) -> bool:
        """Whether as many processes have answered so often."""
        seen = self.ask('sum_over_time(up{job="ecdctr"}[10m])')
        return sum(count >= times for count in seen) >= processes

    def evaluated(self) -> bool:
        """Whether every recording rule has a value, a week's mean and three days' included."""
        return all(self.ask(rule["record"]) for rule in rules("record"))


def _configuration(folder: Path, targets: Path, every: str) -> Path:
    """Ours for a run directory, only faster, and without an Alertmanager."""
    config = yaml.safe_load((FILES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": every, "evaluation_interval": every}
    del config["alerting"]
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(targets)]
    for name in config["rule_files"]:
        read = yaml.safe_load((FILES / name).read_text())
        for group in read["groups"]:
            group.pop("interval", None)
        (folder / name).write_text(yaml.safe_dump(read))
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def past(name: str, labels: str, value: float, days: int = 3) -> str:
    """A gauge of the last days but one, as OpenMetrics text."""
    now = time.time()
    ages = range(days * 24, 25, -6)
    lines = [f"{name}{{{labels}}} {value} {now - hours * 3600:.0f}" for hours in ages]
    return "\n".join([f"# TYPE {name} gauge", *lines, "# EOF", ""])


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def _screens() -> list[dict[str, Any]]:
    folder = ROOT / "monitoring" / "dashboards" / "json"
    return [json.loads((folder / f"{screen}.json").read_text()) for screen in SCREENS]


def panel_queries() -> list[str]:
    """Every query of every panel, variables filled in."""
    return [filled(query) for screen in _screens() for query in queries(screen)]


def mark_queries() -> list[str]:
    return [filled(query) for screen in _screens() for query in marks(screen)]


def filled(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def alert_queries() -> Iterator[tuple[str, str]]:
    """Every alert's expression, and the same without its comparisons."""
    for rule in rules("alert"):
        yield rule["expr"], bare(rule["expr"])


def bare(expression: str) -> str:
    """What an expression compares, whatever it comes to, and however short it was seen."""
    return _SEEN_BEFORE.sub("", _COMPARISON.sub(" ", expression)).strip()


def asked_series() -> set[str]:
    """Each of our series that any panel, mark or rule asks for, with its label matchers."""
    written = [rule["expr"] for kind in ("alert", "record") for rule in rules(kind)]
    asked = [*panel_queries(), *mark_queries(), *written]
    return set().union(*(selectors(query) for query in asked))
