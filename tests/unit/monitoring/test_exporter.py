import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from errors import UserError
from monitoring.exporter import Exporter, Progress
from monitoring.settings import MonitoringConfig

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url):
    try:
        with DIRECT.open(url, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_serves_the_registry_and_nothing_else():
    registry = CollectorRegistry()
    Counter("widgets_total", "Widgets.", registry=registry).inc(3)
    with Exporter(registry) as exporter:
        assert exporter.url.startswith("http://127.0.0.1:")
        status, headers, body = get(exporter.url)
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain")
        assert "widgets_total 3.0" in body
        assert get(exporter.url.replace("/metrics", "/"))[0] == 404
        assert get(exporter.url.replace("/metrics", "/metrics?x=1"))[0] == 200


def test_a_page_where_there_is_one():
    with Exporter(CollectorRegistry(), page=lambda: "<p>é</p>") as exporter:
        status, headers, body = get(exporter.url.replace("/metrics", "/"))
    assert (status, body) == (200, "<p>é</p>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_healthz_turns_503_without_progress_and_back():
    idle = [0.0]
    config = MonitoringConfig(stalled_seconds=10)
    with Exporter(CollectorRegistry(), config, lambda: idle[0]) as exporter:
        url = exporter.url.replace("/metrics", "/healthz")
        assert get(url)[::2] == (200, "ok\n")
        idle[0] = 12.5
        assert get(url)[::2] == (503, "no progress for 12.5 s (limit 10 s)\n")
        idle[0] = 1.0
        assert get(url)[0] == 200


def test_a_health_check_that_fails_is_unhealthy():
    def broken():
        raise RuntimeError("no loop")

    with Exporter(CollectorRegistry(), None, broken) as exporter:
        status, _, body = get(exporter.url.replace("/metrics", "/healthz"))
    assert (status, body) == (503, "the health check failed: no loop\n")


def test_progress_counts_from_the_last_mark(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    now[0] = 107.0
    assert progress.idle_seconds() == 7
    progress.mark()
    assert progress.idle_seconds() == 0


def test_close_frees_the_port_although_a_client_hangs():
    exporter = Exporter(CollectorRegistry())
    with socket.create_connection(("127.0.0.1", exporter.port)):
        exporter.close()
        exporter.close()
        assert not any(t.name == "exporter" for t in threading.enumerate())
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", exporter.port), timeout=5).close()


def test_a_port_in_use_is_a_user_error():
    with (
        Exporter(CollectorRegistry()) as first,
        pytest.raises(UserError, match="monitoring.port = 0"),
    ):
        Exporter(CollectorRegistry(), MonitoringConfig(port=first.port))
