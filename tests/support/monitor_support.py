"""Predictions and announcements on a real Kafka, and a monitor that reads them."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from nursery_support import AS_IF_ALONE, Life, Nursery
from tests_support import eventually

from monitoring.monitor_told import Alarm
from monitoring.processes import running
from monitoring.sampled_rows import Predicted
from monitoring.scrape import Sample, parse
from streaming.connection import KafkaConfig
from streaming.impressions import Batch, ImpressionSchema, Position, SourceRows
from streaming.predictions import encode_predictions
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter

SCHEMA = ImpressionSchema()
SECOND = 1_000
BEGIN = 1_700_000_040_000  # a whole minute
PARTITIONS = 4
SETTINGS = """
[monitor]
windows_seconds = [60, 300]
generations = 3
checkpoint_every_seconds = 0.2
"""
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass(frozen=True)
class Made:
    """n predictions of batches of 100, one version a batch."""

    batch: Batch
    probability_N: np.ndarray
    version: int


def made(number: int, spacing_ms: int = 100) -> Made:
    """Batch ``number`` of a level: impressions that tie, and users who click always or never."""
    rng = np.random.default_rng(number)
    id_N = np.arange(number * 100, number * 100 + 100)
    user_N = id_N * 7 % 23
    columns = {
        "impression_id": id_N,
        "event_time": BEGIN + id_N * spacing_ms,
        "click": ((rng.random(100) < 0.4) & (user_N > 2) | (user_N == 1)).astype(np.int8),
        "user_id": user_N,
        "item_id": id_N % 11,
    }
    rows = pa.record_batch({name: pa.array(column) for name, column in columns.items()})
    source = SourceRows(
        (id_N % PARTITIONS).astype(np.int32), id_N // 20, (id_N % 20).astype(np.int32)
    )
    positions = {p: Position(0) for p in range(PARTITIONS)}
    batch = Batch(rows, source, positions, int(columns["event_time"][-1]), appended_at=BEGIN)
    return Made(batch, (rng.integers(1, 9, 100) / 10).astype(np.float32), number)


def columns_of(all_made: list[Made]) -> dict[str, np.ndarray]:
    """What was predicted: user, click, probability, event_time, version."""
    names = {"user": "user_id", "click": "click", "event_time": "event_time"}
    found = {
        name: np.concatenate([m.batch.rows[column].to_numpy() for m in all_made])
        for name, column in names.items()
    }
    found["probability"] = np.concatenate([m.probability_N for m in all_made])
    found["version"] = np.concatenate([np.full(len(m.batch), m.version) for m in all_made])
    return found


class Counting:
    """An observer that counts what it gets."""

    name = "counting"

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("actr", "cpm", "tpm", "natural", "ad"), 0)
        self.watermarks: dict[str, int] = {}

    def predictions(self, level: str, rows: Predicted) -> None:
        self.counts[level] += len(rows)

    def impressions(self, domain: str, rows: pa.RecordBatch) -> None:
        self.counts[domain] += rows.num_rows

    def advance(self, watermarks: Mapping[str, int]) -> None:
        self.watermarks = dict(watermarks)

    def tell(self) -> None:
        pass

    def alarms(self) -> tuple[Alarm, ...]:
        return ()

    def state(self) -> dict[str, np.ndarray]:
        return {"counts": np.array(list(self.counts.values()))}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.counts = dict(zip(self.counts, state["counts"].tolist(), strict=True))


class Trainer:
    """Publishes what a trainer would."""

    def __init__(self, kafka: KafkaConfig, topics: TopicsConfig, level: str = "actr") -> None:
        self._writer, self._topics, self._level = RecordWriter(kafka), topics, level
        self._source = topics.ad if level == "actr" else topics.natural

    def predict(self, numbers: range) -> list[Made]:
        all_made = [made(number) for number in numbers]
        for one in all_made:
            records = encode_predictions(
                one.batch, one.probability_N, one.version, self._source,
                schema=SCHEMA, level=self._level,
            )  # fmt: skip
            for partition, value, headers in records:
                self._writer.send(
                    self._topics.predictions_of(self._level), value, headers=headers,
                    partition=partition, timestamp_ms=BEGIN + 2 * SECOND,
                )  # fmt: skip
        self._writer.flush(30)
        return all_made

    def publish(self, version: int) -> None:
        self._writer.send(
            self._topics.models_of(self._level),
            json.dumps({"version": version, "location": "", "watermark": 0}).encode(),
            key=self._level.encode(),
            timestamp_ms=BEGIN + 10 * SECOND,
        )
        self._writer.flush(30)

    def junk(self) -> None:
        self._writer.send(self._topics.predictions_of(self._level), b"junk", partition=0)
        self._writer.flush(30)

    def close(self) -> None:
        self._writer.close()


@dataclass
class MonitorHome:
    """A monitor's run directory, and the process that runs there, if one does."""

    nursery: Nursery
    kafka: KafkaConfig
    topics: TopicsConfig
    run_dir: Path
    settings: str = SETTINGS
    life: Life | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        names = "\n".join(f"{k} = {json.dumps(v)}" for k, v in self.topics.model_dump().items())
        self.config.write_text(f"{self.settings}\n[topics]\n{names}\n")

    @property
    def config(self) -> Path:
        return self.run_dir / "config.toml"

    def arguments(self, *more: str) -> list[str]:
        return [
            "monitor",
            *("--config", str(self.config), "--run-dir", str(self.run_dir)),
            *("--bootstrap-servers", self.kafka.bootstrap_servers),
            *more,
        ]

    def start(self, seconds: float = 60) -> MonitorHome:
        log = self.run_dir / "monitor.log"
        self.life = self.nursery.start(self.arguments(), log, log, AS_IF_ALONE)
        eventually(self._registered, seconds, f"a monitor that serves: {self.said()}")
        return self

    def once(self, *more: str) -> Life:
        """Another `ecdctr monitor`, which is to end by itself."""
        return self.nursery.start(self.arguments(*more), self.run_dir / "once.log")

    def _registered(self) -> bool:
        assert self.life is not None and self.life.status is None, self.said()
        return any(p.pid == self.life.pid for p in running(self.run_dir))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.life is not None
        self.life.signal(number)
        return self.life.end(30)

    def close(self) -> None:
        """Kill what still runs."""
        if self.life is not None:
            self.stop(signal.SIGKILL)

    def said(self) -> str:
        log = self.run_dir / "monitor.log"
        return log.read_text() if log.exists() else ""

    def fetch(self, path: str) -> str:
        (url,) = (p.metrics_url for p in running(self.run_dir) if p.name == "monitor")
        with _open(url.removesuffix("/metrics") + path, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def samples(self) -> list[Sample]:
        return [s for s in parse(self.fetch("/metrics")) if s.name.startswith("monitor_")]

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample of a metric (without ``monitor_``) with these labels; None: no sample."""
        found = [
            s.value
            for s in self.samples()
            if s.name == f"monitor_{name}" and labels.items() <= s.labels.items()
        ]
        assert len(found) < 2
        return found[0] if found else None

    def wait(self, name: str, value: float, seconds: float = 60, **labels: str) -> None:
        eventually(
            lambda: self.value(name, **labels) == value,
            seconds,
            f"{name} {labels} = {value}, it is {self.value(name, **labels)}: {self.said()}",
            every=0.2,  # what it tells changes once a second
        )
