import json
import os
import signal
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import errors
from streaming.codec import decode
from streaming.impressions import ImpressionSchema
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_files import slot_path, write_slots
from streaming.market_log import TopicSink, chunks
from streaming.partitioning import partition_of
from streaming.simulate import command
from streaming.truth import Truth, truth_dir

SMALL = {"users": 50, "items": 20, "advertised": 5, "natural_per_day": 900, "ads_per_day": 60}
FLAGS = [part for key, value in SMALL.items() for part in ("--set", f"market.{key}={value}")]


@pytest.fixture
def market():
    return Market(MarketConfig(**SMALL, days=4))


@pytest.fixture
def handlers():
    """The command takes the process's signals; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Log:
    """Takes the writer's place; keeps records by partition."""

    def __init__(self):
        self.records = defaultdict(list)

    def send(self, topic, value, key=None, headers=(), partition=None, timestamp_ms=None):
        self.records[partition].append((value, key, dict(headers), timestamp_ms))

    def rows(self, partition):
        records = self.records[partition]
        parts = [decode(v, list(h.items()), -1, ImpressionSchema()).rows for v, _, h, _ in records]
        return pa.Table.from_batches(parts, schema=ImpressionSchema().arrow)


def snapshot(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_parquet_holds_the_market_and_its_truth(market, tmp_path):
    written = list(write_slots(market, tmp_path))
    assert written == [(s, 960, 60) for s in range(4)]
    truth = Truth(truth_dir(tmp_path))
    for slot in market.days():
        for domain, rows, p in (
            ("natural", slot.natural, slot.natural_probability),
            ("ad", slot.ad, slot.ad_probability),
        ):
            read = pq.read_table(slot_path(tmp_path, domain, slot.index)).combine_chunks()
            assert read.equals(pa.Table.from_batches([rows]))
            assert np.array_equal(truth.lookup(read["impression_id"].to_numpy()), p)


def test_parquet_goes_on_where_it_was(market, tmp_path):
    list(write_slots(market, tmp_path))
    whole = snapshot(tmp_path)
    kept = slot_path(tmp_path, "natural", 0)
    before = kept.stat().st_mtime_ns
    slot_path(tmp_path, "ad", 1).unlink()
    slot_path(tmp_path, "natural", 3).rename(
        slot_path(tmp_path, "natural", 3).with_suffix(".partial")
    )
    assert [slot for slot, *_ in write_slots(market, tmp_path)] == [1, 3]
    assert snapshot(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before
    longer = Market(MarketConfig(**SMALL, days=5))
    assert [slot for slot, *_ in write_slots(longer, tmp_path)] == [4]


def test_parquet_of_another_market_is_left_alone(market, tmp_path):
    list(write_slots(market, tmp_path))
    other = Market(MarketConfig(**SMALL, days=4, seed=3))
    with pytest.raises(errors.UserError, match="another market .seed differ"):
        list(write_slots(other, tmp_path))
    (tmp_path / "market.json").unlink()
    with pytest.raises(errors.UserError, match="without market.json"):
        list(write_slots(market, tmp_path))


def test_parquet_stops_between_slots(market, tmp_path):
    seen = []
    for slot, *_ in write_slots(market, tmp_path, lambda: bool(seen)):
        seen.append(slot)
    assert seen and seen == list(range(len(seen))) and len(seen) < 4
    assert [slot for slot, *_ in write_slots(market, tmp_path)] == list(range(len(seen), 4))


@pytest.mark.parametrize("size", [1, 7, 256, 10_000])
def test_chunks_keep_every_row_and_the_order_of_time(market, size):
    slot = next(market.slots(2))
    parts = list(chunks(slot, size))
    for side, whole in ((0, slot.natural), (1, slot.ad)):
        joined = pa.Table.from_batches([part[side] for part in parts])
        assert joined.combine_chunks().equals(pa.Table.from_batches([whole]).combine_chunks())
    assert all(len(n) + len(a) == size for n, a in parts[:-1])


def send_all(market, log, written, size, first=0):
    sink = TopicSink(log, "t", market.config.fingerprint, written)
    return sum(sink.send(natural) for s in market.slots(first) for natural, _ in chunks(s, size))


def test_records_are_of_one_partition_and_small_enough(market):
    log = Log()
    assert send_all(market, log, dict.fromkeys(range(3), -1), 10_000) == 4 * 900
    for partition, records in log.records.items():
        rows = log.rows(partition)
        assert set(partition_of(rows["user_id"].to_numpy(), 3)) == {partition}
        assert (np.diff(rows["impression_id"].to_numpy()) > 0).all()
        for value, key, headers, timestamp in records:
            one = decode(value, list(headers.items()), -1, ImpressionSchema()).rows
            assert 0 < len(one) <= 256 and key == str(partition).encode()
            assert timestamp is None  # the wall clock, set by the client
            assert int(headers["last-impression"]) == one["impression_id"][-1].as_py()
            assert headers["content-type"] == b"application/vnd.apache.arrow.stream"
    assert sorted(log.records) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_going_on_from_any_cut_repeats_and_loses_nothing(market, seed):
    """Every partition ends somewhere of its own, cut by another chunk size than goes on."""
    random = np.random.default_rng(seed)
    whole, cut = Log(), Log()
    send_all(market, whole, dict.fromkeys(range(3), -1), 10_000)
    send_all(market, cut, dict.fromkeys(range(3), -1), 50)
    written = {}
    for partition, records in cut.records.items():
        del records[random.integers(0, len(records) + 1) :]
        last = records[-1][2]["last-impression"] if records else b"-1"
        written[partition] = int(last)
    sink = TopicSink(cut, "t", market.config.fingerprint, written)
    send_all(market, cut, written, 333, sink.resume_slot)
    for partition in whole.records:
        assert cut.rows(partition).combine_chunks() == whole.rows(partition).combine_chunks()


def test_the_slot_to_go_on_from():
    def first(*written):
        return TopicSink(Log(), "t", "f", dict(enumerate(written))).resume_slot

    assert first(-1, 5 << 32) == 0
    assert first((3 << 32) + 7, 5 << 32) == 3


def test_the_command_writes_parquet_and_says_so(tmp_path, handlers):
    out = tmp_path / "log"
    run = CliRunner().invoke(command, ["--days", "2", "--seed", "4", "--out", str(out), *FLAGS])
    assert run.exit_code == 0, run.output
    assert "done: 1,800 natural, 120 ads" in run.output
    assert json.loads((out / "market.json").read_text())["seed"] == 4
    assert sorted(os.listdir(out / "ad")) == ["00000000.parquet", "00000001.parquet"]


def test_the_command_without_a_kafka_says_what_to_do(tmp_path, handlers):
    run = CliRunner().invoke(command, ["--run-dir", str(tmp_path), *FLAGS])
    assert isinstance(run.exception, errors.UserError)
    assert "ecdctr kafka" in str(run.exception)
