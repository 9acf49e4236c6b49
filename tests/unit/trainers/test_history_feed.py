import logging
from dataclasses import dataclass, field

import pytest
from history_support import EARLY, LATE, Listed, batch_of, small_store
from log_support import SCHEMA, START_MS, impressions
from prometheus_client import CollectorRegistry

from embeddings.history_store import HistoryStore
from monitoring.history_telemetry import HistoryTelemetry
from trainers import history_feed
from trainers.features import BatchMaker
from trainers.history_feed import HistoryFeed
from trainers.settings import ModelConfig

MODEL = ModelConfig()
PERIOD_MS = 100  # START_MS is a multiple of it
OWN = {"level": "actr", "rank": "0"}


@dataclass
class Followed:
    """A follower that has reached ``period_end``; it never has to wait for real."""

    store: HistoryStore = field(default_factory=small_store)
    is_ready: bool = True
    period_end: int = 0

    def wait_ready(self, stopping):
        return self.is_ready

    def wait_for(self, period_end, stopping):
        return self.period_end >= period_end


@pytest.fixture
def registry():
    return CollectorRegistry()


def feed(registry, follower, *, since=0, align=False) -> HistoryFeed:
    telemetry = HistoryTelemetry(registry, "actr")
    return HistoryFeed(follower, SCHEMA, telemetry, period_ms=PERIOD_MS, since=since, align=align)


def test_nothing_is_handed_out_before_the_store_has_caught_up(registry):
    follower = Followed(is_ready=False)
    reader = feed(registry, follower).aligned(Listed(batch_of([25])))
    assert reader.next_batch(0.0) is None
    follower.is_ready = True
    assert reader.next_batch(0.0) is not None, "and then without waiting for any period"


def test_aligned_batches_wait_for_the_period_that_ended_before_their_newest_impression(registry):
    follower = Followed(period_end=START_MS)
    reader = feed(registry, follower, align=True).aligned(
        Listed(batch_of(range(5, 10)), batch_of(range(5, 11)), batch_of([12]))
    )
    assert reader.next_batch(0.0) is not None, "all before the early period's end"
    assert reader.next_batch(0.0) is None, "the impression 10 lies at the early period's end"
    follower.period_end = EARLY
    assert reader.next_batch(0.0) is not None
    assert reader.next_batch(0.0) is not None
    assert reader.finished


def test_a_restart_waits_for_the_history_that_was_there_before(registry):
    follower = Followed(period_end=EARLY)
    reader = feed(registry, follower, since=LATE).aligned(Listed(batch_of([5]), batch_of([50])))
    assert reader.next_batch(0.0) is None
    follower.period_end = LATE
    assert reader.next_batch(0.0) is not None
    follower.period_end = 0
    assert reader.next_batch(0.0) is not None, "once it was there, nothing is waited for"


@pytest.mark.parametrize("align", [False, True])
def test_a_history_that_was_lost_is_missed_but_not_for_ever(registry, monkeypatch, caplog, align):
    monkeypatch.setattr(history_feed, "TELL_SECONDS", -1.0)
    monkeypatch.setattr(history_feed, "PATIENCE_SECONDS", -1.0)
    made = feed(registry, Followed(period_end=START_MS), since=LATE, align=align)
    reader = made.aligned(Listed(batch_of([5])))
    with caplog.at_level(logging.WARNING):
        assert reader.next_batch(0.0) is None
        assert (reader.next_batch(0.0) is None) == align
    assert caplog.text.count("are TPM and `ecdctr refresh` running?") == 1
    assert ("older historical embeddings" in caplog.text) == (not align)


def test_batches_get_their_history_and_it_is_measured(registry):
    made = feed(registry, Followed())
    rows = impressions(range(20, 24))  # users 3 to 6, items 20 to 23
    found = made.attach(BatchMaker(SCHEMA, MODEL)(rows), rows)
    assert found.history.user_mask_BH.all() and not found.history.item_mask_BH.any()
    value = registry.get_sample_value
    assert value("ecdctr_impressions_with_history_ratio", OWN | {"kind": "user"}) == 1.0
    assert value("ecdctr_impressions_with_history_ratio", OWN | {"kind": "item"}) == 0.0
    newest_ms = START_MS + 230
    age = value("ecdctr_history_age_seconds", OWN)
    assert age == pytest.approx((newest_ms - LATE) / 1000)


def test_what_is_looked_up_too_late_is_told_once_and_counted(registry, caplog):
    made = feed(registry, Followed(small_store(versions=1)))

    def look_up(ids) -> float:
        rows = impressions(ids)
        made.attach(BatchMaker(SCHEMA, MODEL)(rows), rows)
        return registry.get_sample_value("ecdctr_history_outrun_total", OWN)

    assert look_up(range(20, 24)) == 0, "both periods are due, and kept"
    assert "history.versions" not in caplog.text
    # Of users 5 to 8 and items 5 to 8 one period before may have been due besides the late one.
    assert look_up(range(5, 9)) == 8
    assert look_up([5]) == 10
    assert caplog.text.count("raise history.versions") == 1


def test_an_empty_batch_is_attached_and_not_measured(registry):
    made = feed(registry, Followed())
    rows = SCHEMA.empty()
    assert made.attach(BatchMaker(SCHEMA, MODEL)(rows, 4), rows).history is not None
    assert registry.get_sample_value("ecdctr_history_age_seconds", OWN) is None


def test_a_checkpoint_says_how_far_the_history_was(registry):
    assert feed(registry, Followed()).marks() == {"history": LATE}
    empty = HistoryStore(4, 2, 2, False)
    assert feed(registry, Followed(empty)).marks() == {"history": 0}
