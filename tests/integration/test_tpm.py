"""TPM on a real Kafka: periods close by event time, and vectors are what its tables hold."""

import contextlib
from collections import defaultdict

import pyarrow as pa
import pytest
from log_support import START_MS, drain
from tpm_support import BUCKETS, KINDS, PERIOD_MS, TPM_SETTINGS, sent_by, table_of, vectors_in
from trainer_support import fresh_topics, impressions, write_impressions

from config import Config
from settings import load
from streaming.codec import encode
from streaming.reader import LogReader
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.checkpoint import CheckpointStore
from trainers.learner import Learner
from trainers.levels import level
from trainers.process import train

FIRST, LATE, LAST = 1_000, 40, 1_500  # impressions: one period and a bit, late ones, the rest


@pytest.fixture(scope="module")
def config(kafka, tmp_path_factory) -> Config:
    """A log of which some impressions come when their period is closed."""
    folder = tmp_path_factory.mktemp("tpm")
    (folder / "config.toml").write_text(TPM_SETTINGS)
    loaded = load(Config, folder / "config.toml", None, [f"run_dir={folder}"])
    topics = fresh_topics()
    create_topics(kafka, topics)
    with RecordWriter(kafka) as writer:
        at = write_impressions(writer, topics.natural, 0, FIRST)
        rows = impressions(50_000, LATE)
        column = rows.schema.get_field_index("event_time")
        times = pa.array(range(START_MS, START_MS + LATE))
        rows = rows.set_column(column, rows.schema.field(column), times)
        for partition in range(topics.partitions):
            part = rows.slice(10 * partition, 10)
            writer.send(topics.natural, encode(part), partition=partition, timestamp_ms=START_MS)
        write_impressions(writer, topics.natural, at, LAST)
    return loaded.config.model_copy(update={"kafka": kafka, "topics": topics})


@pytest.fixture(scope="module")
def trained(config):
    return train(config, "tpm", until_end=True)


@pytest.fixture(scope="module")
def sent(config, trained):
    return sent_by(config.kafka, config.topics)


@pytest.fixture(scope="module")
def expected(config, trained):
    """The same log learnt here: of each period, who was seen on time, and the tables then."""
    tpm = level("tpm", config)
    learner = Learner(tpm.config, tpm.schema)
    reader = LogReader(
        config.kafka,
        tpm.topic,
        config.impressions,
        batch_size=tpm.config.batch_size,
        dead_letters=lambda letter: None,
        until_end=True,
        config=config.reader,
    )
    seen, tables, late, watermark = defaultdict(set), {}, 0, 0
    with contextlib.closing(reader):
        batches = drain(reader)
    for batch in batches:
        closed = watermark // PERIOD_MS * PERIOD_MS
        for end in range(closed + PERIOD_MS, batch.watermark + 1, PERIOD_MS) if watermark else ():
            tables |= {(end, kind): table_of(learner, f"{kind}_id") for kind in KINDS}
        for row in batch.rows.to_pylist():
            end = row["event_time"] // PERIOD_MS * PERIOD_MS + PERIOD_MS
            on_time = end > closed
            late += not on_time
            for kind in KINDS if on_time else ():
                seen[end, kind].add(row[f"{kind}_id"])
        learner.step(learner.to_batch(batch.rows))
        watermark = batch.watermark
    return seen, tables, late


def test_every_period_that_ended_is_sent_once_in_all_buckets(sent, trained):
    found, repeated = sent
    ends = [START_MS + PERIOD_MS * i for i in (1, 2, 3)]
    assert sorted(found) == sorted((e, k, b) for e in ends for k in KINDS for b in range(BUCKETS))
    assert repeated == 0
    assert trained.marks == {"period": ends[-1]}
    assert trained.impressions == FIRST + LATE + LAST


def test_the_checkpoint_says_which_period_is_closed(config, trained):
    found = CheckpointStore(config.run_dir / "checkpoints" / "tpm", keep=3).latest()
    assert found.progress.marks == trained.marks


@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_hold_the_tables_vectors_of_who_was_seen_on_time(sent, expected, kind):
    seen, tables, late = expected
    assert late == LATE, "the log has impressions of a period that was closed"
    for end in sorted({end for end, _ in tables}):
        table = tables[end, kind]
        vectors = vectors_in(sent[0], end, kind)
        assert vectors == {i: table[i] for i in seen[end, kind] & table.keys()}
        assert len(vectors) > 20
