"""Brings the composed stack up for real, where no image registry is reached: `make compose-test`.

Needs root, a Docker engine (one is started when `dockerd` is installed and none answers),
docker-compose and mmdebstrap; without them it says so and ends with status 0. Base images are
made from Debian's packages, ours is built from docker/Dockerfile on such a base.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
FILES = ("-f", "docker-compose.yml", "-f", "docker/compose.test.yml")
PROJECT = "ecdctrtest"
OURS = "ecdctr:test"
TRAINERS = ("train-tpm", "train-cpm", "train-actr")
LASTING = ("kafka", *TRAINERS, "refresher", "monitor", "prometheus", "alertmanager")
TRUST = "/etc/ssl/certs/ca-certificates.crt"
DAYS, RATE = 8, 3000
ADS_A_DAY, BATCH = 4_400, 256  # of configs/demo.toml
BASES = {
    "ecdctr-base:test": "python3,python3-venv,ca-certificates",
    "ecdctr-prometheus:test": "prometheus,prometheus-alertmanager,busybox",
}


class Failed(Exception):
    """What was to be shown was not seen."""


def main() -> None:
    missing = [
        tool for tool in ("docker", "docker-compose", "mmdebstrap") if not shutil.which(tool)
    ]
    if missing or os.geteuid():
        print(f"compose-test: skipped: needs root and {', '.join(missing) or 'more rights'}")
        return
    with contextlib.ExitStack() as stack:
        if not _answers(os.environ) and not shutil.which("dockerd"):
            say("skipped: no Docker engine answers and none is installed")
            return
        env = stack.enter_context(engine())
        try:
            make_images(env)
            show(env)
        except (Failed, subprocess.CalledProcessError) as failure:
            sys.exit(f"compose-test: FAILED: {failure}")
    say("passed")


def say(words: str) -> None:
    print(f"compose-test: {words}", flush=True)


# -- engine and images ----------------------------------------------------------------


@contextlib.contextmanager
def engine() -> Iterator[dict[str, str]]:
    """The environment in which docker finds an engine; one of our own if none answers."""
    env = dict(os.environ, DOCKER_BUILDKIT="0", COMPOSE_DOCKER_CLI_BUILD="0")
    if _answers(env):
        yield env
        return
    say("starting a Docker engine")
    folder = Path(tempfile.mkdtemp(prefix="ecdctr-docker-"))
    env["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
    names = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    flags = [f"--{flag}={folder / name}" for flag, name in names.items()]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", "-H", env["DOCKER_HOST"], *flags], stdout=log, stderr=log
        )
    try:
        wait(lambda: _answers(env), 60, f"the engine (see {folder}/dockerd.log)")
        yield env
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(env: Any) -> bool:
    found = subprocess.run(["docker", "info"], env=env, capture_output=True)
    return found.returncode == 0


def make_images(env: dict[str, str]) -> None:
    known = run(env, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for name, packages in BASES.items():
        if name not in known:
            say(f"making {name} of Debian's packages")
            make_base(env, name, packages)
    say(f"building {OURS} (minutes, the first time)")
    arguments = ("--build-arg", "BASE=ecdctr-base:test", "-f", "docker/Dockerfile", "-t", OURS)
    run(env, "docker", "build", "-q", *arguments, ".")
    for tool in ("gcc", "cc", "g++", "make"):
        found = subprocess.run(
            ["docker", "run", "--rm", "--entrypoint", "which", OURS, tool],
            env=env,
            capture_output=True,
        )
        require(found.returncode != 0, f"{tool} is in the image")
    user = run(env, "docker", "run", "--rm", "--entrypoint", "id", OURS, "-u").strip()
    require(user != "0", "the image runs as root")


def make_base(env: dict[str, str], name: str, packages: str) -> None:
    """A minimal Debian with ``packages``, trusting whom this machine trusts."""
    with tempfile.TemporaryDirectory(prefix="ecdctr-base-") as folder:
        tar = f"{folder}/base.tar"
        trusted = os.environ.get("SSL_CERT_FILE", TRUST)
        hook = f"mkdir -p $1/etc/ssl/certs && cp {trusted} $1{TRUST}"
        run(
            env,
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}"),
            *(f"--customize-hook={hook}", "bookworm", tar),
        )
        trust = f"ENV SSL_CERT_FILE={TRUST} PIP_CERT={TRUST}"
        run(env, "docker", "import", "--change", trust, tar, name)


# -- what must be seen ----------------------------------------------------------------


def show(env: dict[str, str]) -> None:
    ports = {name: str(free_port()) for name in ("MONITOR_PORT", "PROMETHEUS_PORT")}
    env = env | ports | settings()
    prometheus = f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}"
    say("bringing the stack up")
    try:
        compose(env, "up", "-d", "--no-build")
        wait(lambda: all_well(env), 600, lambda: f"every service healthy: {states(env)}")
        say("every service is healthy")
        wait(
            lambda: value(prometheus, 'min(up{process!="simulate"})') == 1,
            60,
            "every Prometheus target up",
        )
        rules = fetch(f"{prometheus}/api/v1/rules")["data"]["groups"]
        require(bool(rules) and bool(fetch_alertmanagers(prometheus)), "alerts are loaded")
        say(f"every target is up, {len(rules)} groups of rules are loaded")
        wait(lambda: (learnt(prometheus) or 0) > 2_000, 300, "impressions learnt")
        wait(lambda: (value(prometheus, "sum(ecdctr_history_entities)") or 0) > 0, 300, "history")
        say("impressions are learnt, history is refreshed")
        kill(env, "train-actr")
        wait(lambda: all_well(env), 300, lambda: f"A-CTR back: {states(env)}")
        say("A-CTR was killed and is back")
        wait(lambda: nothing_is_missing(prometheus), 600, lambda: f"all ads: {tally(prometheus)}")
        say(f"nothing was lost or counted twice: {tally(prometheus)}")
    except Failed:
        print(compose(env, "logs", "--tail=15"))
        raise
    finally:
        compose(env, "down", "-v", "--timeout", "30")
    left = run(
        env, "docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}"
    )
    require(not left.strip(), "containers are left after down")
    say("down left nothing behind")


def settings() -> dict[str, str]:
    """The variables of docker-compose.yml for this test."""
    jars = Path(os.environ.get("ECDCTR_CACHE_DIR", Path.home() / ".cache" / "ecdctr"))
    run(dict(os.environ), *(sys.executable, "-c", FETCH_JARS))
    return {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "COMPOSE_PROFILES": "cpu,demo",
        "ECDCTR_IMAGE": OURS,
        "PROMETHEUS_IMAGE": "ecdctr-prometheus:test",
        "ALERTMANAGER_IMAGE": "ecdctr-prometheus:test",
        "ALERTMANAGER_PORT": str(free_port()),
        "KAFKA_JARS": str(jars),
        "MARKET_RATE": str(RATE),
        "MARKET_DAYS": str(DAYS),
    }


FETCH_JARS = "from streaming.kafka_jars import class_path, report_to_stderr as r; class_path(r)"


def all_well(env: dict[str, str]) -> bool:
    found = states(env)
    market = found.get("simulate") in ("healthy", "exited")  # it has an end
    return market and all(found.get(name) == "healthy" for name in LASTING)


def states(env: dict[str, str]) -> dict[str, str]:
    """Each service's health, or its state where it has none."""
    label = f"label=com.docker.compose.project={PROJECT}"
    found = {}
    for container in run(env, "docker", "ps", "-aq", "--filter", label).split():
        told = json.loads(run(env, "docker", "inspect", container))[0]
        state = told["State"]
        health = state.get("Health", {}).get("Status", state["Status"])
        found[told["Config"]["Labels"]["com.docker.compose.service"]] = health
    return found


def kill(env: dict[str, str], service: str) -> None:
    """As a crash would: by the process, so that the restart policy is what brings it back."""
    container = compose(env, "ps", "-q", service).strip()
    before = json.loads(run(env, "docker", "inspect", container))[0]
    os.kill(before["State"]["Pid"], signal.SIGKILL)

    def again() -> bool:
        now = json.loads(run(env, "docker", "inspect", container))[0]
        return now["RestartCount"] > before["RestartCount"] and now["State"]["Running"]

    wait(again, 60, f"{service} started again")


def learnt(prometheus: str) -> float | None:
    return value(prometheus, 'sum(ecdctr_monitor_predictions_total{level="actr"})')


def tally(prometheus: str) -> dict[str, float | None]:
    """Ads of the market, and those predicted, each counted once."""
    return {"ads": float(DAYS * ADS_A_DAY), "predicted": learnt(prometheus)}


def nothing_is_missing(prometheus: str) -> bool:
    """But for those that do not fill A-CTR's last batch, and wait."""
    found = tally(prometheus)
    ads, predicted = found["ads"], found["predicted"]
    assert ads is not None
    return predicted is not None and ads - BATCH < predicted <= ads


def fetch_alertmanagers(prometheus: str) -> list[Any]:
    found: list[Any] = fetch(f"{prometheus}/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    return found


def value(prometheus: str, query: str) -> float | None:
    """A query's only value; None: it has none."""
    result = fetch(f"{prometheus}/api/v1/query?query={quote(query)}")["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


# -- helpers --------------------------------------------------------------------------


def compose(env: dict[str, str], *arguments: str) -> str:
    return run(env, "docker-compose", *FILES, *arguments)


def run(env: dict[str, str], *command: str) -> str:
    """Its output.

    Raises:
        Failed: with the last lines of what it said.
    """
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise Failed(f"{' '.join(command[:4])} …: status {done.returncode}\n{last}")
    return done.stdout


def wait(ready: Callable[[], bool], seconds: float, what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # a service that is not there yet
            if ready():
                return
        time.sleep(1)
    raise Failed(f"not in {seconds:.0f} s: {what() if callable(what) else what}")


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Failed(what)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
