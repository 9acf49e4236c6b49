"""Reading what processes export, and putting it together as a :class:`Snapshot`."""

from __future__ import annotations

import math
import socket
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from monitoring.processes import MONITOR, Process, running
from monitoring.series import Point
from monitoring.snapshot import NAN, LevelState, ProcessState, Snapshot, TableState
from monitoring.telemetry import PREFIX
from streaming.connection import KafkaConfig
from streaming.kafka_clients import addresses, one_line

# Loopback addresses must not go through a proxy that the environment names.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass(frozen=True)
class Sample:
    name: str  # without the prefix
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """One process and what it said."""

    process: Process
    samples: tuple[Sample, ...] = ()
    state: str = "running"
    note: str = ""


def parse(exposition: str) -> tuple[Sample, ...]:
    """Our own samples of a `/metrics` page; raises ValueError if it is none."""
    return tuple(
        Sample(sample.name.removeprefix(PREFIX), sample.labels, sample.value)
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    )


def scrape(process: Process, timeout: float = 2.0) -> Scrape:
    """Ask one process; whatever goes wrong is its state, never an exception."""
    if not process.alive:
        return Scrape(process, state="dead", note="ended without saying so")
    if not process.metrics_url:
        return Scrape(process)
    try:
        with _open(process.metrics_url, timeout=timeout) as answer:
            samples = parse(answer.read().decode())
        state, note = _health(process.metrics_url, timeout)
    except TimeoutError:
        return Scrape(process, state="no answer", note="hangs, or is very busy")
    except (OSError, ValueError) as error:
        hangs = isinstance(getattr(error, "reason", None), TimeoutError)
        note = "hangs, or is very busy" if hangs else one_line(error)
        return Scrape(process, state="no answer", note=note)
    return Scrape(process, samples, state, note)


def _health(metrics_url: str, timeout: float) -> tuple[str, str]:
    try:
        with _open(metrics_url.replace("/metrics", "/healthz"), timeout=timeout):
            return "running", ""
    except urllib.error.HTTPError as error:
        with error:
            return "stalled", error.read().decode(errors="replace").strip()


def scrape_all(processes: Sequence[Process], timeout: float = 2.0) -> list[Scrape]:
    """All at once, in the order given."""
    if not processes:
        return []
    with ThreadPoolExecutor(max_workers=min(len(processes), 16)) as pool:
        return list(pool.map(lambda process: scrape(process, timeout), processes))


def watched(run_dir: Path, level: str) -> float:
    """Predictions of ``level`` that the monitor of a run directory has read; 0: none answers."""
    monitors = [process for process in running(run_dir) if process.name == MONITOR]
    samples = Samples(s for one in scrape_all(monitors) for s in one.samples)
    return samples.of(level=level).total("monitor_predictions_total", 0)


def kafka_state(kafka: KafkaConfig | None, timeout: float = 0.5) -> str:
    """`up` or `down`, by whether a port opens; empty when no address is known."""
    if kafka is None or not kafka.bootstrap_servers:
        return ""
    for server in addresses(kafka.bootstrap_servers):
        try:
            with socket.create_connection(server, timeout=timeout):
                return "up"
        except OSError:
            continue
    return "down"


class Rates:
    """Increase a second of totals, over the last few seconds."""

    def __init__(self, span_seconds: float = 10.0) -> None:
        self._span = span_seconds
        self._seen: dict[str, deque[tuple[float, float]]] = {}

    def update(self, key: str, at: float, total: float) -> float:
        """Rate of `key`, NaN at first; a total that fell (a restart) starts over."""
        seen = self._seen.setdefault(key, deque())
        if seen and total < seen[-1][1]:
            seen.clear()
        seen.append((at, total))
        while len(seen) > 2 and at - seen[1][0] >= self._span:
            seen.popleft()
        begin, first = seen[0]
        return (total - first) / (at - begin) if at > begin else NAN


@dataclass
class SnapshotBuilder:
    """Makes a snapshot of a round of scrapes; remembers totals, for rates."""

    rates: Rates = field(default_factory=Rates)

    def build(
        self,
        scrapes: Sequence[Scrape],
        at: float,
        kafka: str = "",
        points: Sequence[Point] = (),
        message: str = "",
    ) -> Snapshot:
        samples = Samples([sample for one in scrapes for sample in one.samples])
        levels = [self._level(samples.of(level=level), level, at) for level in samples.levels()]
        produced = samples.by("impressions_produced_total", "topic")
        per_second = self.rates.update("produced", at, sum(produced.values())) if produced else NAN
        return Snapshot(
            at=at,
            processes=tuple(_process(one, at) for one in scrapes),
            levels=tuple(levels),
            points=tuple(points),
            produced=produced,
            produced_per_second=per_second,
            dead_letters={r: n for r, n in samples.by("dead_letters_total", "reason").items() if n},
            kafka=kafka,
            message=message,
        )

    def _level(self, samples: Samples, level: str, at: float) -> LevelState:
        impressions = samples.total("impressions_learnt_total")
        return LevelState(
            level=level,
            impressions=impressions,
            per_second=self.rates.update(level, at, impressions),
            lag_records=samples.total("lag_records"),
            lag_seconds=samples.pick("lag_event_time_seconds", max),
            event_time=samples.pick("event_time_seconds", max),
            loss=samples.mean("log_loss_nats"),
            gauc=samples.mean("gauc_ratio"),
            ceiling=samples.mean("gauc_ceiling_ratio"),
            normalized_entropy=samples.mean("normalized_entropy_ratio"),
            copc=samples.mean("copc_ratio"),
            ctr=samples.mean("ctr_ratio"),
            model_version=samples.pick("model_version", max),
            checkpoint_age_seconds=at - samples.pick("checkpoint_timestamp_seconds", max),
            history=samples.pick("impressions_with_history_ratio", max),
            history_age_seconds=samples.pick("history_age_seconds", max),
            hand_down=samples.pick("hand_down_event_time_seconds", max),
            tables=_tables(samples),
            late=samples.total("late_impressions_total", 0),
            repeated=samples.total("duplicate_impressions_total", 0),
            lost=samples.total("lost_records_total", 0),
        )


class Samples:
    """Samples of several processes, and how those of several ranks become one number."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def of(self, **labels: str) -> Samples:
        wanted = labels.items()
        return Samples(s for s in self._samples if wanted <= s.labels.items())

    def levels(self) -> list[str]:
        """Of trainers; what the monitor says of a level is not that one's."""
        return sorted(
            {
                s.labels["level"]
                for s in self._samples
                if "level" in s.labels and not s.name.startswith("monitor_")
            }
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums of a metric by one of its labels."""
        sums: dict[str, float] = {}
        for sample in self._samples:
            if sample.name == name:
                sums[sample.labels[label]] = sums.get(sample.labels[label], 0) + sample.value
        return sums

    def pick(self, name: str, choose: Callable[[list[float]], float]) -> float:
        values = [s.value for s in self._samples if s.name == name and not math.isnan(s.value)]
        return choose(values) if values else NAN

    def total(self, name: str, default: float = NAN) -> float:
        found = self.pick(name, sum)
        return default if math.isnan(found) else found

    def mean(self, name: str) -> float:
        """Over ranks, weighted by the impressions in their windows."""
        weights = {
            s.labels.get("rank"): s.value for s in self._samples if s.name == "window_impressions"
        }
        pairs = [
            (s.value, weights.get(s.labels.get("rank"), 0.0))
            for s in self._samples
            if s.name == name and not math.isnan(s.value)
        ]
        weight = sum(w for _, w in pairs)
        return sum(value * w for value, w in pairs) / weight if weight else NAN


def _tables(samples: Samples) -> tuple[TableState, ...]:
    """Ranks hold equal shares of a table's rows, so that occupancies are averaged."""
    evictions = samples.by("evictions_total", "table")
    names = samples.by("table_occupancy_ratio", "table")
    return tuple(
        TableState(
            name,
            samples.of(table=name).pick("table_occupancy_ratio", lambda v: sum(v) / len(v)),
            evictions.get(name, 0),
        )
        for name in names
    )


def _process(one: Scrape, at: float) -> ProcessState:
    alive = one.process.alive
    age = max(at - one.process.started_at, 0) if alive else NAN
    return ProcessState(one.process.name, one.state, age, one.note)
