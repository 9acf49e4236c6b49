"""What an overload came to: memory over time, and impressions against predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from kafka import TopicPartition
from numpy.typing import NDArray

from streaming import kafka_clients
from streaming.connection import KafkaConfig
from streaming.group_decoding import decode_all
from streaming.impressions import IMPRESSION_ID, ImpressionSchema
from streaming.predictions import SourceFilter

WARM_UP = 0.25
"""Share of a run's samples in which memory may still grow."""


@dataclass(frozen=True)
class Growth:
    """A process's resident memory after its warm-up; MiB, and MiB a minute."""

    median: float
    greatest: float
    slope: float
    rise: float  # slope x time, of the median


def growth(samples: Sequence[tuple[float, float]]) -> Growth:
    """``samples``: (minute, MiB) by rising time."""
    kept = np.array(samples[int(WARM_UP * len(samples)) :])
    minute_N, mib_N = kept[:, 0], kept[:, 1]
    slope = float(np.polyfit(minute_N, mib_N, 1)[0])
    median = float(np.median(mib_N))
    return Growth(median, float(mib_N.max()), slope, slope * np.ptp(minute_N) / median)


def accounted(written_N: NDArray[np.int64], predicted_M: NDArray[np.int64]) -> tuple[int, int]:
    """Ids without a prediction, and predictions too many, of any id or of none that is known."""
    lost = len(np.setdiff1d(written_N, predicted_M))
    return lost, len(predicted_M) - (len(np.unique(written_N)) - lost)


def impression_ids(kafka: KafkaConfig, topic: str, schema: ImpressionSchema) -> NDArray[np.int64]:
    """Of every impression in the topic."""
    decoded = decode_all(_records(kafka, topic), schema)
    return _joined([found.rows.column(IMPRESSION_ID).to_numpy() for found in decoded])


def predicted_ids(kafka: KafkaConfig, topic: str) -> NDArray[np.int64]:
    """Of every prediction in the topic, without those that were made again after a restart."""
    once = SourceFilter()
    found = (once.of_record(record.value, record.headers) for record in _records(kafka, topic))
    return _joined([rows.column("impression_id").to_numpy() for rows in found])


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _records(kafka: KafkaConfig, topic: str) -> Iterator[Any]:
    """Every record of ``topic``, each partition in its order."""
    with closing(kafka_clients.consumer(kafka, auto_offset_reset="earliest")) as consumer:
        names = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(names)
        ends = consumer.end_offsets(names)
        while any(consumer.position(name) < ends[name] for name in names):
            for records in consumer.poll(200).values():
                yield from records
