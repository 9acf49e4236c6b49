"""A stretch of the live topics, written once as a log to replay.

    LOG/natural/*.parquet, LOG/ad/*.parquet    in the order in which a live trainer reads them
    LOG/recorded.json                          which stretch, and what it holds; written last

So a replay learns the live system's batches, however the topics were filled, and every
level and variant reads the same impressions, whatever the topics become meanwhile.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
from kafka import TopicPartition

from config import Config
from errors import UserError
from streaming.connection import KafkaConfig
from streaming.dead_letters import DeadLetter
from streaming.import_sinks import ParquetSink
from streaming.impressions import EVENT_TIME
from streaming.kafka_clients import admin, consumer, resolve
from streaming.log_gap import instant
from streaming.reader import LogReader
from trainers.replay.log import AD, NATURAL, RECORDED, Span
from trainers.replay.plan import fingerprint
from trainers.replay.results import made_whole

_ROWS = 32_768  # impressions in a file
_FOREVER = 2**62


@dataclass(frozen=True)
class Range:
    """Event times ``since`` <= t < ``until``, ms."""

    since: int = 0
    until: int = _FOREVER

    def __str__(self) -> str:
        parts = [f"from {instant(self.since)}"] if self.since else []
        parts += [f"before {instant(self.until)}"] if self.until < _FOREVER else []
        return " ".join(parts) or "at any time"


def record(config: Config, wanted: Range, folder: Path, told: Callable[[str], None]) -> Path:
    """The impressions of both topics in the ``wanted`` range, in a folder of ``folder``.

    What was recorded before is recorded again only where the topics may hold more of it.

    Args:
        told: takes a line for the person who watches.

    Raises:
        UserError: no Kafka, no topic, no ads in the range, or a folder that cannot be written.
    """
    kafka = resolve(config.kafka, config.run_dir)
    topics = {NATURAL: config.topics.natural, AD: config.topics.ad}
    path = folder / fingerprint(_cluster(kafka), topics, asdict(wanted), config.impressions)
    ends = _ends(kafka, topics)
    if _is_up_to_date(path, ends):
        told(f"recorded before: {path}")
        return path
    with made_whole(path) as partial:
        done = {
            domain: _Recording(config, kafka, topic, wanted).write(partial / domain, told)
            for domain, topic in topics.items()
        }
        if not done[AD].span.rows:
            raise UserError(f"topic '{topics[AD]}' holds no impressions {wanted}")
        about = {
            "range": asdict(wanted),
            "ends": ends,
            "complete": all(one.complete for one in done.values()),
            "spans": {domain: asdict(one.span) for domain, one in done.items()},
        }
        (partial / RECORDED).write_text(json.dumps(about))
    return path


def _cluster(kafka: KafkaConfig) -> str:
    with contextlib.closing(admin(kafka)) as client:
        return str(client.describe_cluster()["cluster_id"])


def _ends(kafka: KafkaConfig, topics: Mapping[str, str]) -> dict[str, list[int]]:
    """Domain to the offsets at which its partitions end."""
    with contextlib.closing(consumer(kafka)) as client:
        found = {}
        for domain, topic in topics.items():
            names = [TopicPartition(topic, p) for p in client.partitions_for_topic(topic) or ()]
            ends = client.end_offsets(names) if names else {}
            found[domain] = [ends[name] for name in sorted(names)]
        return found


def _is_up_to_date(path: Path, ends: dict[str, list[int]]) -> bool:
    try:
        about = json.loads((path / RECORDED).read_text())
        return bool(about["complete"] or about["ends"] == ends)
    except (OSError, ValueError, KeyError):
        return False


@dataclass(frozen=True)
class _Done:
    span: Span
    complete: bool  # the topic goes on beyond the range


class _Recording:
    """Of one topic."""

    def __init__(self, config: Config, kafka: KafkaConfig, topic: str, wanted: Range) -> None:
        self._config, self._kafka, self._topic, self._wanted = config, kafka, topic, wanted
        self._complete, self._unusable = False, 0

    def write(self, folder: Path, told: Callable[[str], None]) -> _Done:
        sink, span = ParquetSink(folder), Span(0, 0, 0)
        for rows in self._chosen():
            sink.write(rows)
            span = _longer(span, rows)
        left_out = f", {self._unusable:,} unusable ones left out" if self._unusable else ""
        told(f"recorded {span.rows:,} impressions of {self._topic}{left_out}")
        return _Done(span, self._complete)

    def _chosen(self) -> Iterator[pa.RecordBatch]:
        for rows in self._all():
            time_N = rows.column(EVENT_TIME).to_numpy()
            if time_N.min() >= self._wanted.until:
                self._complete = True
                return
            chosen_N = (time_N >= self._wanted.since) & (time_N < self._wanted.until)
            if chosen_N.any():
                yield rows if chosen_N.all() else rows.filter(pa.array(chosen_N))

    def _all(self) -> Iterator[pa.RecordBatch]:
        """From the topic's beginning, as event times are in the impressions only."""
        with LogReader(
            self._kafka,
            self._topic,
            self._config.impressions,
            batch_size=_ROWS,
            dead_letters=self._leave_out,
            until_end=True,
            config=self._config.reader.model_copy(update={"begin": "earliest"}),
        ) as reader:
            while not reader.finished:
                batch = reader.next_batch(timeout=0.2)
                if batch is not None:
                    yield batch.rows

    def _leave_out(self, letter: DeadLetter) -> None:
        self._unusable += letter.count


def _longer(span: Span, rows: pa.RecordBatch) -> Span:
    time_N = rows.column(EVENT_TIME).to_numpy()
    first, last = int(time_N.min()), int(time_N.max())
    if not span.rows:
        return Span(len(rows), first, last)
    return replace(
        span,
        rows=span.rows + len(rows),
        first=min(span.first, first),
        last=max(span.last, last),
    )
