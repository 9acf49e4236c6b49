"""Trainers in tests: their homes, their logs and what they leave behind."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import TopicPartition
from log_support import FOREVER_HOURS, SCHEMA, START_MS
from nursery_support import Life, Nursery

from streaming import kafka_clients
from streaming.codec import encode
from streaming.connection import KafkaConfig
from streaming.dead_letters import Assembly, DeadLetter
from streaming.predictions import PREDICTIONS, SourceFilter, decode_predictions
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter
from trainers.checkpoint import Checkpoint, verify

PARTITIONS = 4
BATCH = 32
IMPRESSIONS = 200 * BATCH + 20  # the last batch is a short one
BAD_RECORDS = 12
EVERY_BATCHES = 3
HELD_BACK = 0.2

# Fewer rows than ids, so that vocabularies admit and evict all the time.
SETTINGS = f"""
[impressions]
features = [
    {{ name = "user_id", kind = "id" }},
    {{ name = "item_id", kind = "id" }},
    {{ name = "recent", kind = "id", multi = true, optional = true, table = "item_id" }},
    {{ name = "age", kind = "numeric", optional = true }},
]
[reader]
prefetch_rows = 2000
idle_partition_seconds = 1.0
[actr]
batch_size = {BATCH}
metrics_window = 1000
device = "cpu"
[actr.checkpoint]
every_batches = {EVERY_BATCHES}
[actr.forgetting]
share = {HELD_BACK}
period_hours = 0.25
rows = 128
[actr.model]
dim = 8
hidden = [16]
cross_layers = 1
cross_rank = 4
eviction_interval = 5
[actr.model.ids]
rows = 256
"""


# -- the log -----------------------------------------------------------------------------


def impressions(first: int, count: int) -> pa.RecordBatch:
    """Impressions ``first`` to ``first + count - 1``; more users and items than table rows."""
    rng = np.random.default_rng(first)
    user_N, item_N = rng.zipf(1.3, count) % 1_500, rng.zipf(1.2, count) % 900
    recent = [rng.integers(0, 900, n).tolist() for n in rng.integers(0, 4, count)]
    id_N = np.arange(first, first + count)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(id_N),
            pa.array(START_MS + 1_000 * id_N),
            pa.array(((user_N + item_N) % 5 == 0).astype(np.int8)),
            pa.array(user_N),
            pa.array(item_N),
            pa.array(recent, pa.list_(pa.int64())),
            pa.array(rng.normal(size=count).astype(np.float32)),
        ],
        schema=SCHEMA.arrow,
    )


def fresh_topics(log: TopicsConfig | None = None) -> TopicsConfig:
    """Topics of nobody else's; with ``log``, over the same impressions."""
    own = uuid.uuid4().hex[:8]
    names = {
        name: f"{default}.{own}"
        for name, default in TopicsConfig().model_dump().items()
        if isinstance(default, str)
    }
    if log is not None:
        names |= {"ad": log.ad, "natural": log.natural}
    return TopicsConfig(**names, partitions=PARTITIONS, retention_hours=FOREVER_HOURS)


def write_impressions(
    writer: RecordWriter,
    topic: str,
    first: int,
    count: int,
    partitions: tuple[int, ...] = tuple(range(PARTITIONS)),
) -> int:
    """Impressions in records of uneven size, dealt out by chance; returns the next free id."""
    rng = np.random.default_rng(first)
    at, end = first, first + count
    while at < end:
        size = min(int(rng.integers(1, 40)), end - at)
        writer.send(
            topic,
            encode(impressions(at, size)),
            partition=int(rng.choice(partitions)),
            timestamp_ms=START_MS + 1_000 * at,
        )
        at += size
    writer.flush(60)
    return end


def records_of(kafka: KafkaConfig, topic: str) -> Iterator[Any]:
    """Every record of ``topic``, each partition in its order."""
    with closing(kafka_clients.consumer(kafka, auto_offset_reset="earliest")) as consumer:
        names = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(names)
        ends = consumer.end_offsets(names)
        while any(consumer.position(name) < ends[name] for name in names):
            for records in consumer.poll(200).values():
                yield from records


@dataclass(frozen=True)
class Predictions:
    """What was predicted, repeated ranges dropped, in order of impression id."""

    impression_N: np.ndarray  # int64
    probability_N: np.ndarray  # float32
    version_N: np.ndarray  # int64
    repeated: int

    def bits(self) -> tuple[bytes, bytes, bytes]:
        return self.impression_N.tobytes(), self.probability_N.tobytes(), self.version_N.tobytes()


def predictions_of(kafka: KafkaConfig, topics: TopicsConfig) -> Predictions:
    once = SourceFilter()
    found = [
        once.new(topics.ad, decode_predictions(record.value))
        for record in records_of(kafka, topics.predictions_of("actr"))
    ]
    rows = pa.Table.from_batches(found, schema=PREDICTIONS).sort_by("impression_id")
    return Predictions(
        rows["impression_id"].to_numpy(),
        rows["probability"].to_numpy(),
        rows["model_version"].to_numpy(),
        once.repeated,
    )


def dead_letters_of(kafka: KafkaConfig, topics: TopicsConfig) -> list[DeadLetter]:
    assembly = Assembly()
    found = [assembly.add(r.value, r.headers, r.key) for r in records_of(kafka, topics.dead_letter)]
    return [letter for letter in found if letter is not None]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# -- homes -------------------------------------------------------------------------------


@dataclass
class Home:
    """A trainer's run directory, which outlives its lives, and the topics it works on."""

    nursery: Nursery
    kafka: KafkaConfig
    topics: TopicsConfig
    run_dir: Path
    settings: str = SETTINGS
    level: str = "actr"
    lives: int = field(default=0, init=False)
    """How many trainers were started here."""

    def __post_init__(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.write_settings(self.settings)

    def write_settings(self, settings: str) -> None:
        topics = "\n".join(f"{k} = {json.dumps(v)}" for k, v in self.topics.model_dump().items())
        self.config_path.write_text(f"{settings}\n[topics]\n{topics}\n")

    @property
    def config_path(self) -> Path:
        return self.run_dir / "config.toml"

    @property
    def store(self) -> Path:
        return self.run_dir / "checkpoints" / self.level

    def arguments(self, *more: str, until_end: bool = True) -> list[str]:
        return [
            *("train", self.level),
            *("--config", str(self.config_path), "--run-dir", str(self.run_dir)),
            *("--bootstrap-servers", self.kafka.bootstrap_servers),
            *(["--until-end"] if until_end else []),
            *more,
        ]

    def live(self, *more: str, until_end: bool = True, told: str = "", **environment: str) -> Life:
        """Fork a trainer; ``told``: where its standard output goes."""
        self.lives += 1
        output = self.run_dir / f"life-{self.lives}.log"
        arguments = self.arguments(*more, until_end=until_end)
        return self.nursery.start(arguments, output, Path(told) if told else None, **environment)

    def live_ranks(self, ranks: int, *more: str, until_end: bool = True) -> list[Life]:
        """Fork ``ranks`` trainers that are one, with the environment that torchrun gives."""
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        return [
            self.live(
                *more, until_end=until_end, **address, **sizes, RANK=str(r), LOCAL_RANK=str(r)
            )
            for r in range(ranks)
        ]

    def finish(self, seconds: float = 90, **environment: str) -> Life:
        """A life up to the log's end."""
        life = self.live(**environment)
        assert life.end(seconds) == 0, life.said()
        return life

    # -- what is on disk, without importing anything heavy -----------------------------

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are current or were, oldest first."""
        return sorted(int(p.name.removeprefix("step-")) for p in self.store.glob("step-*"))

    def newest_step(self) -> int:
        return max(self.steps(), default=0)

    def writing(self) -> list[int]:
        """Steps of the checkpoints that are being written, or whose writer was killed."""
        return [int(p.name.removeprefix(".writing-")) for p in self.store.glob(".writing-*")]

    def reached(self) -> int:
        """The last step of which something is on disk."""
        return max([*self.steps(), *self.writing()], default=0)

    def newest(self) -> Checkpoint:
        return verify(max(self.store.glob("step-*")))


# -- comparing ---------------------------------------------------------------------------


def tensors_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Every tensor in a checkpoint by its name, put together from all ranks' shards."""
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    found: dict[str, Any] = {}
    _load_state_dict(
        found,
        storage_reader=FileSystemReader(checkpoint.path),
        planner=_EmptyStateDictLoadPlanner(),
        no_dist=True,
    )
    return found


def known_ids(checkpoint: Checkpoint) -> dict[str, set[int]]:
    """Managed table to the ids (as they are spread over the id space) that have a row."""
    found: dict[str, set[int]] = {}
    for name, tensor in tensors_of(checkpoint).items():
        if name.endswith("._mch_sorted_raw_ids"):
            nobody = int(tensor.max())  # of the type's greatest number, where a row is free
            found[name.split(".")[-2]] = set(tensor.tolist()) - {nobody}
    assert found
    return found


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything in a checkpoint by name, as bits: two that are equal go on the same."""
    import torch

    found = tensors_of(checkpoint)
    for path in sorted(checkpoint.path.glob("hidden-*.pt")):
        found[path.name] = torch.load(path, weights_only=True)
    for name in ("window", "recall"):
        for path in sorted(checkpoint.path.glob(f"{name}-*.npz")):
            with np.load(path) as arrays:
                found[path.name] = dict(arrays)
    bits = dict(_bits("", found))
    assert any("optimizer" in name for name in bits) and any("hidden" in name for name in bits)
    return bits | {"progress": checkpoint.progress}


def _bits(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _bits(f"{name}/{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _bits(f"{name}/{index}", inner)
    elif isinstance(value, torch.Tensor):
        array = value.detach().contiguous().numpy()
        yield name, (str(value.dtype), tuple(value.shape), array.tobytes())
    elif isinstance(value, np.ndarray):
        yield name, (str(value.dtype), value.shape, value.tobytes())
    else:
        yield name, value


def assert_same_state(left: Checkpoint, right: Checkpoint) -> None:
    one, other = state_of(left), state_of(right)
    assert one["progress"] == other["progress"]
    differing = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
    assert not differing, f"{len(differing)} of {len(one)} differ: {differing[:8]}"


def wait_until(condition: Any, seconds: float, what: str, every: float = 0.002) -> None:
    """As `eventually`, looking often enough to catch a moment."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(every)


@dataclass(frozen=True)
class Undisturbed:
    """A trainer that went through the bounded log in one go."""

    home: Home
    predictions: Predictions
    start_seconds: float  # from its fork to its first checkpoint
    cycle_seconds: float  # from one checkpoint to the next


def assert_same_end(home: Home, undisturbed: Undisturbed) -> int:
    """State, predictions, dead letters and announcement as without a fault; rows repeated."""
    assert_same_state(home.newest(), undisturbed.home.newest())
    found = predictions_of(home.kafka, home.topics)
    assert found.impression_N.tolist() == list(range(IMPRESSIONS))
    assert found.bits() == undisturbed.predictions.bits()
    letters = dead_letters_of(home.kafka, home.topics)
    assert len({(letter.partition, letter.offset) for letter in letters}) == BAD_RECORDS
    *_, announced = records_of(home.kafka, home.topics.models_of("actr"))
    assert json.loads(announced.value)["location"] == str(home.newest().path)
    return found.repeated
