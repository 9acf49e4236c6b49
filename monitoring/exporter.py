"""`/metrics` and `/healthz` of a process, and a page if it has one, served by own threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from errors import UserError
from monitoring.settings import MonitoringConfig

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"


class Progress:
    """When something last moved. A loop marks it after every batch **and** every
    poll that found nothing: having nothing to do is not being stuck."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def mark(self) -> None:
        self._at = time.monotonic()

    def idle_seconds(self) -> float:
        return time.monotonic() - self._at


class Exporter:
    """Serves from construction until `close`; a scrape never waits for the caller's loop.

    `idle_seconds` says how long ago there was progress; more than
    `config.stalled_seconds`, or an exception out of it, and `/healthz` is 503
    with the reason. What `page` returns is served at `/` as HTML.

    Raises:
        UserError: the address cannot be listened on.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        config: MonitoringConfig | None = None,
        idle_seconds: Callable[[], float] = lambda: 0.0,
        page: Callable[[], str] | None = None,
    ) -> None:
        config = config or MonitoringConfig()
        self._health = _Health(idle_seconds, config.stalled_seconds)
        address = (config.host, config.port)
        try:
            self._server = _Server(address, _handler(registry, self._health, page))
        except OSError as error:
            raise UserError(
                f"cannot serve metrics on {config.host}:{config.port}: {error.strerror or error}; "
                "monitoring.port = 0 takes a free port"
            ) from None
        host = "127.0.0.1" if config.host in ("0.0.0.0", "") else config.host
        self.port = int(self._server.server_address[1])
        self.url = f"http://{host}:{self.port}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="exporter", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; at most a tenth of a second. May be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class _Health:
    def __init__(self, idle_seconds: Callable[[], float], limit: float) -> None:
        self._idle_seconds = idle_seconds
        self._limit = limit

    def check(self) -> tuple[int, str]:
        """Status code and its one line of reason."""
        try:
            idle = self._idle_seconds()
        except Exception as error:
            return 503, f"the health check failed: {error}\n"
        if idle > self._limit:
            return 503, f"no progress for {idle:.1f} s (limit {self._limit:g} s)\n"
        return 200, "ok\n"


def _handler(
    registry: CollectorRegistry, health: _Health, page: Callable[[], str] | None
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds that a silent client keeps its thread

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif path == "/healthz":
                status, text = health.check()
                self._answer(status, TEXT, text.encode())
            elif path == "/" and page is not None:
                self._answer(200, HTML, page().encode())
            else:
                self._answer(404, TEXT, b"there are /, /metrics and /healthz\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A scrape is not news."""

    return Handler
