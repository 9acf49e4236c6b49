"""What the benchmarks of the trainer learn from: a large market's ads, through a real Kafka.

Sixteen embedding tables of 200,000 rows: the market's ids, Zipf over more users,
items and creatives than rows, who come and go, so that vocabularies admit and evict
as in production; its attributes; and context columns of many values such as ad logs
have (site, device, campaign), drawn log-uniformly and without meaning.
"""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from config import Config
from streaming.connection import KafkaConfig
from streaming.embedded_kafka import EmbeddedKafka
from streaming.impressions import Batch, Feature, ImpressionSchema
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_log import TopicSink
from streaming.reader import LogReader
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter

BATCH = 4_096
ROWS = 200_000
CONTEXT = ("site", "app", "device", "campaign", "advertiser", "region", "keyword", "slot", "deal")
CONTEXT_VALUES = 1_000_000

MARKET = MarketConfig(
    preset="large",
    days=60,
    users=300_000,
    items=200_000,
    advertised=100_000,
    natural_per_day=1_000,
    ads_per_day=2_400_000,
    ad_ctr=0.1,
    user_zipf=0.9,
    item_zipf=0.9,
    user_lifetime_days=20,
    item_lifetime_days=20,
    creative_lifetime_days=10,
)
"""Clicks are frequent, so that the lists of recent items are full."""

LEVEL = {
    "batch_size": BATCH,
    "model": {
        "dim": 16,
        "ids": {"rows": ROWS},
        "categories": {"rows": ROWS, "vocabulary": "hashed"},
        "hidden": (256, 128, 64),
    },
}


def _schema() -> ImpressionSchema:
    context = (Feature(name=name, kind="categorical") for name in CONTEXT)
    return ImpressionSchema(features=(*ImpressionSchema().features, *context))


SCHEMA = _schema()


def widened(rows: pa.RecordBatch, seed: int) -> pa.RecordBatch:
    """The market's ``rows`` with the context columns, decided by ``seed``."""
    generator = np.random.default_rng(seed)
    drawn = generator.random((len(CONTEXT), rows.num_rows), np.float32)
    values = np.power(np.float32(CONTEXT_VALUES), drawn).astype(np.int64)
    columns = {name: pa.array(values[i]) for i, name in enumerate(CONTEXT)}
    market = {name: rows.column(name) for name in rows.schema.names}
    return pa.RecordBatch.from_pydict(market | columns, schema=SCHEMA.arrow)


@contextlib.contextmanager
def broker() -> Iterator[tuple[KafkaConfig, Path]]:
    """A Kafka of one's own and a folder, both gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="ecdctr-bench-") as folder,
        EmbeddedKafka(Path(folder) / "kafka") as kafka,
    ):
        yield kafka.config, Path(folder)


@dataclass(frozen=True)
class Log:
    """Impressions of the market in a topic of their own."""

    config: Config
    impressions: int

    def fresh(self, folder: Path, **level: object) -> Config:
        """A configuration that reads this log anew and writes to topics and folders of its own."""
        own = uuid.uuid4().hex[:8]
        topics = self.config.topics.model_dump() | {
            "predictions": f"predictions-{own}",
            "models": f"models-{own}",
        }
        actr = self.config.actr.model_dump() | level
        fresh = Config.model_validate(
            self.config.model_dump() | {"run_dir": folder / own, "topics": topics, "actr": actr}
        )
        create_topics(fresh.kafka, fresh.topics, levels=("actr",))
        return fresh


def write_log(kafka: KafkaConfig, impressions: int, market: MarketConfig = MARKET) -> Log:
    """At least ``impressions`` of the market's ads, in the order of event time."""
    config = Config.model_validate(
        {
            "kafka": kafka.model_dump(),
            "market": market.model_dump(),
            "impressions": SCHEMA.model_dump(),
            "actr": LEVEL,
        }
    )
    create_topics(kafka, config.topics)
    empty = dict.fromkeys(range(config.topics.partitions), -1)
    sent = 0
    with RecordWriter(kafka) as writer:
        sink = TopicSink(writer, config.topics.ad, market.fingerprint, empty)
        for slot in Market(market).slots():
            sent += sink.send(widened(slot.ad, slot.index))
            if sent >= impressions:
                break
        writer.flush()
    return Log(config, sent)


def hold(log: Log, batches: int) -> list[Batch]:
    """The first ``batches`` batches of the log, as a trainer would get them."""
    held: list[Batch] = []
    config = log.config
    with LogReader(
        config.kafka,
        config.topics.ad,
        config.impressions,
        batch_size=config.actr.batch_size,
        dead_letters=lambda letter: None,
        until_end=True,
    ) as reader:
        while len(held) < batches and not reader.finished:
            batch = reader.next_batch(timeout=10.0)
            if batch is not None:
                held.append(batch)
    return held
