"""A refresher as a process, its topics, and what readers find in the end."""

from __future__ import annotations

import contextlib
import signal
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import BrokerResponseError
from nursery_support import AS_IF_ALONE, Life, Nursery
from prometheus_client.parser import text_string_to_metric_families
from refresh_support import expected, history_config
from tests_support import eventually

from embeddings.history import Snapshot
from embeddings.history_records import encode_snapshot, record_key, snapshot_headers
from embeddings.history_settings import HistoryConfig
from embeddings.refresh_faust import app_id
from embeddings.refresh_worker import changelog_topic
from monitoring.processes import running
from streaming.connection import KafkaConfig
from streaming.kafka_clients import admin, consumer
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter

SECONDS = 60.0
"""Longest wait for a worker on a machine with much else to do."""


@dataclass
class Refreshers:
    """The workers over one set of topics, and the snapshots that were written."""

    nursery: Nursery
    kafka: KafkaConfig
    topics: TopicsConfig
    run_dir: Path
    config: HistoryConfig = field(default_factory=history_config)
    snapshots: list[Snapshot] = field(default_factory=list)
    workers: list[Life] = field(default_factory=list)
    _watcher: KafkaConsumer | None = None

    # -- workers --------------------------------------------------------------------

    def start(self, number: int = 1, before: str = "") -> Life:
        log = self.log(number)
        log.touch()
        worker = self.nursery.start(self.arguments(number), log, log, AS_IF_ALONE + before)
        self.workers.append(worker)
        return worker

    def arguments(self, number: int = 1) -> list[str]:
        options = [f"history.{k}={v}" for k, v in self.config.model_dump(mode="json").items()]
        options += [f"topics.{k}={v}" for k, v in self.topics.model_dump().items()]
        options += [f"kafka.start_wait_seconds={self.kafka.start_wait_seconds}"]
        return [
            *("refresh", "--worker", str(number), "--run-dir", str(self.run_dir)),
            *("--bootstrap-servers", self.kafka.bootstrap_servers),
            *(word for option in options for word in ("--set", option)),
        ]

    def log(self, number: int = 1) -> Path:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        return self.run_dir / f"refresh-{number}.log"

    def said(self, number: int = 1) -> str:
        return self.log(number).read_text()

    def has(self, partitions: int, number: int = 1) -> bool:
        """Whether the log told of ``partitions`` having been taken over, one time or another."""
        lines = [line for line in self.said(number).splitlines() if line.startswith("partition ")]
        return len({line.split()[1] for line in lines}) >= partitions

    def stop(self, worker: Life) -> None:
        worker.signal(signal.SIGINT)
        assert worker.end(SECONDS) == 0

    def kill(self, worker: Life) -> None:
        worker.signal(signal.SIGKILL)
        worker.end(SECONDS)

    def close(self) -> None:
        for worker in self.workers:
            if worker.status is None:
                worker.signal(signal.SIGCONT)
                self.kill(worker)
        if self._watcher is not None:
            self._watcher.close()

    # -- topics ---------------------------------------------------------------------

    def write(self, snapshots: Iterable[Snapshot]) -> None:
        with RecordWriter(self.kafka) as writer:
            for snapshot in snapshots:
                self.snapshots.append(snapshot)
                writer.send(
                    self.topics.snapshots,
                    encode_snapshot(snapshot),
                    key=record_key(snapshot.kind, snapshot.bucket),
                    headers=snapshot_headers(snapshot),
                )
            writer.flush(30)

    def records(self, topic: str) -> list:
        """All of a topic, partition by partition."""
        found = []
        with contextlib.closing(consumer(self.kafka)) as client:
            places = [TopicPartition(topic, p) for p in range(self.topics.partitions)]
            client.assign(places)
            client.seek_to_beginning(*places)
            ends = client.end_offsets(places)
            deadline = time.monotonic() + SECONDS
            while any(client.position(place) < ends[place] for place in places):
                assert time.monotonic() < deadline
                for records in client.poll(timeout_ms=200).values():
                    found += records
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def length(self, topic: str) -> int:
        """Records ever written to a topic, all partitions together."""
        if self._watcher is None:
            self._watcher = consumer(self.kafka)
        places = [TopicPartition(topic, p) for p in range(self.topics.partitions)]
        return sum(self._watcher.end_offsets(places).values())

    def committed(self) -> int:
        """Snapshots that Faust would not read again."""
        with contextlib.closing(admin(self.kafka)) as client:
            offsets = client.list_group_offsets([app_id(self.topics)])[app_id(self.topics)]
        return sum(
            at.offset for place, at in offsets.items() if place.topic == self.topics.snapshots
        )

    @property
    def changelog(self) -> str:
        return changelog_topic(app_id(self.topics))

    def found(self) -> dict[bytes, bytes | None]:
        """What the compacted topic comes to."""
        return {record.key: record.value for record in self.records(self.topics.historical)}

    def lose(self, topic: str, before: Mapping[int, int] | None = None) -> None:
        """Delete a topic's records, all or those ``before`` an offset of a partition."""
        before = before or dict.fromkeys(range(self.topics.partitions), -1)
        places = {TopicPartition(topic, p): offset for p, offset in before.items()}
        with contextlib.closing(admin(self.kafka)) as client:
            for policy in ("delete", "compact"):  # a broker deletes nothing of a compacted topic
                settings = {"cleanup.policy": policy}
                client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
                if policy == "delete":
                    eventually(partial(_deleted, client, places), 10, "records deleted")

    def delete_changelog(self) -> None:
        with contextlib.closing(admin(self.kafka)) as client:
            client.delete_topics([self.changelog])

    def make_compacting_changelog(self) -> None:
        """One that Kafka compacts as soon as it can; to be called before any worker starts."""
        configs = {
            "cleanup.policy": "compact",
            "segment.ms": "50",
            "min.cleanable.dirty.ratio": "0.001",
        }
        new = {"num_partitions": self.topics.partitions, "replication_factor": 1}
        with contextlib.closing(admin(self.kafka)) as client:
            client.create_topics({self.changelog: new | {"configs": configs}})
            client.wait_for_topics([self.changelog])

    # -- outcome --------------------------------------------------------------------

    def await_right(self) -> None:
        """Readers find what the pure functions say, soon and from then on."""
        wanted, looked_at = expected(self.snapshots, self.config), -1

        def right() -> bool:
            nonlocal looked_at
            for worker in self.workers:
                status = worker.status
                assert status in (None, 0, -signal.SIGKILL), f"{status}: {worker.said()}"
            # To read it all again takes longer than to ask whether there is more.
            length = self.length(self.topics.historical)
            if length == looked_at:
                return False
            looked_at = length
            return self.found() == wanted

        eventually(right, SECONDS, f"the published history of {len(wanted)} buckets", every=0.1)

    def metrics(self, name: str = "refresher") -> dict[tuple[str, str], float]:
        """Metric and its own label's value (or nothing) to value."""
        (url,) = [p.metrics_url for p in running(self.run_dir) if p.name == name]
        with urllib.request.urlopen(url, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {
            (s.name, "".join(v for k, v in s.labels.items() if k != "worker")): s.value
            for family in families
            for s in family.samples
        }


def _deleted(client: KafkaAdminClient, places: Mapping[TopicPartition, int]) -> bool:
    """False: the broker has not heard of the topic's new policy yet."""
    try:
        client.delete_records(places)
    except BrokerResponseError as error:
        if "PolicyViolation" in str(error):
            return False
        raise
    return True
