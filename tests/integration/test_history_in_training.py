"""A-CTR beside a real topic of historical embeddings: what it sees, and when."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from history_support import DIM, ITEMS, USERS, window_of
from log_support import SCHEMA, START_MS, impressions
from tests_support import eventually

from config import Config
from embeddings.history import KINDS
from embeddings.history_records import encode_window, record_key, window_headers
from streaming.codec import encode
from streaming.writer import RecordWriter
from trainers.checkpoint import CheckpointStore
from trainers.features import ModelBatch
from trainers.levels import level
from trainers.process import Trainer

SPACING_MS = 200
PERIOD_MS = 3_600
FIRST = -(-START_MS // PERIOD_MS) * PERIOD_MS
ENDS = (FIRST, FIRST + PERIOD_MS)
"""Ends of the two periods that are published, in the midst of the impressions."""
BATCH, IMPRESSIONS = 4, 48


@pytest.fixture
def config(kafka, topics, tmp_path) -> Config:
    model = {"dim": 8, "hidden": [8], "ids": {"rows": 64}, "cross_rank": 4}
    return Config.model_validate(
        {
            "run_dir": tmp_path,
            "kafka": kafka.model_dump(),
            "topics": topics.model_dump(),
            "impressions": SCHEMA.model_dump(),
            "tpm": {"model": {"dim": DIM, "ids": {"rows": 64}}},
            "history": {
                "aggregation": "attention",
                "periods": 2,
                "period_hours": PERIOD_MS / 3_600_000,
                "buckets": 2,
            },
            "actr": {"history": True, "batch_size": BATCH, "device": "cpu", "model": model},
        }
    )


def aligned(config: Config) -> Config:
    return config.model_copy(update={"actr": config.actr.model_copy(update={"align": True})})


def send_ads(config: Config, first: int, last: int) -> None:
    with RecordWriter(config.kafka) as writer:
        rows = impressions(range(first, last), SPACING_MS)
        timestamp_ms = START_MS + SPACING_MS * first
        writer.send(config.topics.ad, encode(rows), partition=0, timestamp_ms=timestamp_ms)
        writer.flush(30)


def send_windows(config: Config, *ends: int) -> None:
    """All buckets after the periods ``ends``; after none, what an earlier, empty one leaves."""
    with RecordWriter(config.kafka) as writer:
        for kind in KINDS:
            for bucket in range(config.history.buckets):
                window = window_of(kind, bucket, config.history, *ends)
                if not ends:
                    window = replace(window, newest_period_end=FIRST - PERIOD_MS)
                writer.send(
                    config.topics.historical,
                    encode_window(kind, bucket, window),
                    key=record_key(kind, bucket),
                    headers=window_headers(kind, bucket, window),
                )
        writer.flush(30)


@dataclass
class Seen:
    """What the model was given, impression by impression."""

    user: dict[int, list[float]] = field(default_factory=dict)
    item: dict[int, list[float]] = field(default_factory=dict)

    def note(self, batch: ModelBatch, ids: list[int]) -> None:
        history = batch.history
        assert history is not None
        for row, i in enumerate(ids):
            self.user[i] = (history.user_BHD[row, :, 0] * history.user_mask_BH[row]).tolist()
            self.item[i] = (history.item_BHD[row, :, 0] * history.item_mask_BH[row]).tolist()


def train(config: Config, seen: Seen, beside: Callable[[], None] = lambda: None) -> None:
    """A-CTR up to the log's end, with ``seen`` looking on and ``beside`` run meanwhile."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        trainer = Trainer(config, level("actr", config), config.kafka, True, stack)
        prepared = trainer._prepared

        def watched(batch):
            made = prepared(batch)
            seen.note(made, batch.rows.column("impression_id").to_pylist())
            return made

        trainer._prepared = watched
        other = threads.submit(beside)
        # A trainer that waits for what failed beside it would wait for ever.
        other.add_done_callback(lambda done: done.exception() and trainer.stopping.set())
        trainer.run()
        other.result()


def expected(entity: int, known: int, i: int) -> list[float]:
    """Of the impression i, by its event time: both periods, the early one, none."""
    passed = sum(end <= START_MS + SPACING_MS * i for end in ENDS)
    value = float(entity + 1) if entity < known else 0.0
    return {0: [0.0, 0.0], 1: [value, 0.0], 2: [-value, value]}[passed]


def assert_seen_by_event_time(seen: Seen, ids: range) -> None:
    assert sorted(seen.user) == list(ids)
    for i in ids:
        assert seen.user[i] == expected(i % 17, USERS, i), f"user of impression {i}"
        assert seen.item[i] == expected(i % 31, ITEMS, i), f"item of impression {i}"


def test_no_impression_sees_a_period_that_ends_after_it(config):
    send_windows(config, *ENDS)
    send_ads(config, 0, IMPRESSIONS)
    seen = Seen()
    train(config, seen)
    assert_seen_by_event_time(seen, range(IMPRESSIONS))
    sides = np.array([seen.user[i] + seen.item[i] for i in range(IMPRESSIONS)])
    assert (sides != 0).any(0).all(), "every slot was filled at some time"


def test_aligned_batches_wait_for_the_windows_that_are_due(config):
    send_ads(config, 0, IMPRESSIONS)
    # Full batches whose impressions all lie before a period's end.
    before = [-(-(end - START_MS) // SPACING_MS) // BATCH * BATCH for end in ENDS]
    seen, learnt_before = Seen(), []

    def refresh() -> None:
        """Publish each period only when all has been learnt that may be without it."""
        for passed, count in enumerate(before):
            send_windows(config, *ENDS[:passed])
            eventually(lambda count=count: len(seen.user) >= count, 60, "the batches before it")
            learnt_before.append(len(seen.user))
        send_windows(config, *ENDS)

    train(aligned(config), seen, refresh)
    assert 0 < before[0] < before[1] < IMPRESSIONS
    assert learnt_before == before
    assert_seen_by_event_time(seen, range(IMPRESSIONS))


def test_a_restart_knows_the_history_that_its_checkpoint_knew(config):
    send_windows(config, *ENDS)
    send_ads(config, 0, IMPRESSIONS)
    train(config, Seen())
    newest = CheckpointStore(config.run_dir / "checkpoints" / "actr", keep=3).latest()
    assert newest is not None
    assert newest.progress.marks == {"history": ENDS[-1]}
    assert newest.progress.shape["actr.model.history_slots"] == 2
    send_ads(config, IMPRESSIONS, 2 * IMPRESSIONS)
    seen = Seen()
    train(config, seen)
    assert_seen_by_event_time(seen, range(IMPRESSIONS, 2 * IMPRESSIONS))
