"""kafka-python's log made bearable: an absent broker is said once, and once when it is back.

While a broker is away, kafka-python logs several lines at every attempt, ten
attempts a second. Those lines become two of ours; everything else passes, the
same line at most once a minute.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_LOST = "the connection to Kafka is lost; waiting for it"
QUIET_SECONDS = 60.0
"""The same message is not repeated for this long."""

_CONNECTION = re.compile(
    r"ConnectionError|ECONN|EHOST|ENET|disconnected|[Cc]onnection (lost|failed|refused|closed)"
    r"|Metadata refresh|[Nn]o node available|NoBrokersAvailable|not ready|NodeNotReady|backoff"
    r"|Error (receiving|sending) (network|request) data"
    r"|Bootstrap|[Tt]imed out|Timeout|oordinator.*(dead|unavailable|NotCoordinator)"
)
# What a client had under way when we closed it.
_CLOSED = re.compile(r"Metadata refresh: failed Cancelled")
# Lost to a refusal of ours, not to absence: the user has to read these.
_REFUSAL = re.compile(r"Authenti|Authoriz|Sasl|SASL|Ssl|SSL|CERTIFICATE|certificate")
# "<KafkaConnection node_id=1 host=[127.0.0.1:22215<-40864] ...>: ": another at every attempt.
_LABEL = re.compile(r"<Kafka.*?>(?=:)")

# Its own event loop was held up: so it is on any busy machine.
_BUSY = re.compile(r"^Task .* ran for [0-9.]+s \(>")

_LOGGERS = (
    "kafka.client",
    "kafka.cluster",
    "kafka.consumer.fetcher",
    "kafka.consumer.group",
    "kafka.coordinator",
    "kafka.coordinator.base",
    "kafka.coordinator.consumer",
    "kafka.coordinator.heartbeat",
    "kafka.net.compat",
    "kafka.net.connection",
    "kafka.net.manager",
    "kafka.net.selector",
    "kafka.net.transport",
    "kafka.producer.kafka",
    "kafka.producer.producer_batch",
    "kafka.producer.sender",
    "kafka.producer.transaction_manager",
)
_CONNECTS = "kafka.net.connection"


class SayOnce(logging.Filter):
    """Drops what kafka-python repeats and keeps track of whether the broker is away."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}
        self._lost_at: float | None = None
        self._listening: list[list[str]] = []

    @contextlib.contextmanager
    def overhear(self) -> Iterator[list[str]]:
        """Say nothing meanwhile; what kafka-python complained of is in the list given."""
        heard: list[str] = []
        with self._lock:
            self._listening.append(heard)
        try:
            yield heard
        finally:
            with self._lock:
                self._listening = [other for other in self._listening if other is not heard]

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno < logging.WARNING:
            if record.name == _CONNECTS and message.endswith(": Connected"):
                self.connected()
            return logging.getLogger().isEnabledFor(record.levelno)
        if self._overheard(message) or _CLOSED.search(message) or _BUSY.search(message):
            return False
        if _CONNECTION.search(message) and not is_refusal(message):
            self.lost()
            return False
        with self._lock:
            return self._first(_LABEL.sub("", message))

    def _overheard(self, message: str) -> bool:
        with self._lock:
            for heard in self._listening:
                heard.append(message)
            return bool(self._listening)

    def lost(self) -> None:
        with self._lock:
            if self._lost_at is not None:
                return
            self._lost_at = self._clock()
            say = self._first("lost")
        if say:
            log.warning(_LOST)

    def connected(self) -> None:
        with self._lock:
            if self._lost_at is None:
                return
            seconds = self._clock() - self._lost_at
            self._lost_at = None
            say = self._first("back")
        if say:
            log.warning("connected to Kafka again after %.1f s", seconds)

    def _first(self, key: str) -> bool:
        """True unless ``key`` was said within QUIET_SECONDS. The lock is held."""
        now = self._clock()
        self._said = {k: t for k, t in self._said.items() if now - t < QUIET_SECONDS}
        if key in self._said:
            return False
        self._said[key] = now
        return True


def is_refusal(message: str) -> bool:
    """True when the broker answered and did not want us, by its or our settings."""
    return _REFUSAL.search(message) is not None


_filter = SayOnce()
overhear = _filter.overhear


def relay(record: logging.LogRecord) -> None:
    """Say what another process of ours had to say, of the broker's absence once for both."""
    if record.name != log.name:
        logging.getLogger(record.name).handle(record)
    elif record.getMessage() == _LOST:
        _filter.lost()
    else:
        _filter.connected()


def quiet_kafka_python() -> None:
    """Put the filter in place; calling it again changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_filter)
    connects = logging.getLogger(_CONNECTS)
    if connects.getEffectiveLevel() > logging.INFO:
        connects.setLevel(logging.INFO)  # "Connected" is how we know that the broker is back
