"""The order of the log, and nothing else, decides what a batch holds."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.impressions import Batch, Position
from streaming.interleave import Interleaver

ROWS = pa.schema([pa.field("event_time", pa.int64()), pa.field("impression_id", pa.int64())])


@dataclass
class Record:
    offset: int
    times: list[int]
    good: list[int]  # which rows are good
    ids: list[int]

    def push(self, interleaver: Interleaver, partition: int) -> None:
        columns = [self.times, self.ids]
        rows = pa.RecordBatch.from_arrays(
            [pa.array([c[i] for i in self.good], pa.int64()) for c in columns], schema=ROWS
        )
        index = np.array(self.good, dtype=np.int32)
        interleaver.push(partition, self.offset, rows, index)


Log = dict[int, list[Record]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Up to 4 partitions; disordered times, ties, gaps in offsets, bad rows, bad records."""
    log: Log = {}
    next_id = 0
    for partition in range(draw(st.integers(1, 4))):
        offset, log[partition] = draw(st.integers(0, 3)), []
        for _ in range(draw(st.integers(0, 8))):
            times = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
            good = [i for i in range(len(times)) if draw(st.integers(0, 4))]
            ids = list(range(next_id, next_id + len(times)))
            next_id += len(times)
            log[partition].append(Record(offset, times, good, ids))
            offset += draw(st.sampled_from([1, 1, 1, 3]))
    return log


def read(log: Log, batch_size: int, positions=None, choose=lambda n: 0) -> list[Batch]:
    """All batches, with records arriving and being asked for as ``choose`` likes."""
    start = {p: (positions or {}).get(p, Position(0)) for p in log}
    interleaver = Interleaver(log, batch_size, start)
    waiting = {p: [r for r in log[p] if r.offset >= start[p].offset] for p in log}
    batches: list[Batch] = []
    while waiting:
        partition = sorted(waiting)[choose(len(waiting))]
        for _ in range(1 + choose(3)):
            if waiting[partition]:
                waiting[partition].pop(0).push(interleaver, partition)
        if not waiting[partition]:
            interleaver.end(partition)
            del waiting[partition]
        if choose(2) or not waiting:
            while stretch := interleaver.take(1 + choose(3), last=not waiting):
                assert stretch.rows == pa.concat_batches([b.rows for b in stretch.batches])
                batches += stretch.batches
    return batches


def contents(batches: list[Batch]) -> list[list[tuple[int, int, int, int]]]:
    return [
        list(
            zip(
                batch.rows.column("impression_id").to_pylist(),
                batch.source.partition.tolist(),
                batch.source.offset.tolist(),
                batch.source.row.tolist(),
                strict=True,
            )
        )
        for batch in batches
    ]


def expected(log: Log) -> list[int]:
    """Brute force: the least head goes first, whole."""
    queues = {p: [r for r in records if r.good] for p, records in log.items()}
    order: list[int] = []
    while any(queues.values()):
        heads = [(q[0].times[q[0].good[0]], p) for p, q in queues.items() if q]
        record = queues[min(heads)[1]].pop(0)
        order += [record.ids[i] for i in record.good]
    return order


@settings(max_examples=200, deadline=None)
@given(logs(), st.integers(1, 9), st.data())
def test_batches_depend_on_the_log_alone(log, batch_size, data):
    def choose(n):
        return data.draw(st.integers(0, n - 1))

    batches = read(log, batch_size)
    order = expected(log)
    found = [row[0] for batch in contents(batches) for row in batch]
    assert found == order
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert contents(read(log, batch_size, choose=choose)) == contents(batches)


@settings(max_examples=200, deadline=None)
@given(logs(), st.integers(1, 9), st.data())
def test_restart_at_any_batch_gives_the_same_remaining_batches(log, batch_size, data):
    def choose(n):
        return data.draw(st.integers(0, n - 1))

    batches = read(log, batch_size)
    for i in range(len(batches)):
        assert set(batches[i].positions) == set(log)
        again = read(log, batch_size, batches[i].positions, choose)
        assert contents(again) == contents(batches[i + 1 :])


@settings(max_examples=100, deadline=None)
@given(logs(), st.integers(1, 9), st.data())
def test_positions_and_watermark_do_not_depend_on_arrival(log, batch_size, data):
    def choose(n):
        return data.draw(st.integers(0, n - 1))

    one, other = read(log, batch_size), read(log, batch_size, choose=choose)
    assert [b.watermark for b in one] == [b.watermark for b in other]
    assert [b.positions for b in one] == [b.positions for b in other]


def record(offset: int, times: list[int], bad=()) -> Record:
    good = [i for i in range(len(times)) if i not in bad]
    return Record(offset, times, good, [offset * 100 + i for i in range(len(times))])


def next_batch(interleaver: Interleaver) -> Batch:
    (batch,) = interleaver.take(1).batches
    return batch


def test_a_partition_that_has_not_shown_its_next_record_holds_the_others_back():
    interleaver = Interleaver([0, 1], batch_size=1)
    record(0, [5]).push(interleaver, 0)
    assert interleaver.take(1) is None
    assert interleaver.awaited == {1}
    record(0, [3]).push(interleaver, 1)
    assert contents([next_batch(interleaver)]) == [[(0, 1, 0, 0)]]
    assert interleaver.take(1) is None  # partition 1 may yet bring something before 5


def test_a_silent_partition_is_left_out_until_it_speaks_and_late_rows_are_counted():
    interleaver = Interleaver([0, 1], batch_size=1)
    record(0, [5]).push(interleaver, 0)
    record(1, [6]).push(interleaver, 0)
    interleaver.end(1)
    assert next_batch(interleaver).watermark == 5
    record(0, [2]).push(interleaver, 1)  # speaks, too late
    late = next_batch(interleaver)
    assert late.source.partition.tolist() == [1] and late.watermark == 5
    assert interleaver.late == 1
    assert interleaver.take(1) is None and interleaver.awaited == {1}


def test_a_record_that_was_cut_goes_on_first_after_a_restart():
    """Even before a record of a silent partition that has spoken meanwhile."""
    interleaver = Interleaver([0, 1], 2, {0: Position(4, 1), 1: Position(0)})
    record(0, [1]).push(interleaver, 1)
    assert interleaver.take(1) is None
    record(4, [7, 8, 9]).push(interleaver, 0)
    batch = next_batch(interleaver)
    assert contents([batch]) == [[(401, 0, 4, 1), (402, 0, 4, 2)]]
    assert batch.positions == {0: Position(5), 1: Position(0)}


def test_records_without_good_rows_move_the_position_of_a_silent_partition():
    interleaver = Interleaver([0, 1], batch_size=1)
    record(0, [1], bad=[0]).push(interleaver, 1)
    record(0, [1]).push(interleaver, 0)
    assert interleaver.take(1) is None
    interleaver.end(1)
    assert next_batch(interleaver).positions == {0: Position(1), 1: Position(1)}


def test_an_offset_that_comes_again_is_refused():
    interleaver = Interleaver([0], batch_size=1)
    record(3, [1]).push(interleaver, 0)
    with pytest.raises(ValueError, match="offset 3 came after 4"):
        record(3, [1]).push(interleaver, 0)


def test_no_short_batch_before_the_end():
    interleaver = Interleaver([0, 1], batch_size=4)
    record(0, [1, 2]).push(interleaver, 0)
    assert interleaver.take(1, last=True) is None
    interleaver.end(0)
    interleaver.end(1)
    assert interleaver.take(1) is None
    assert [len(batch) for batch in interleaver.take(2, last=True).batches] == [2]
    assert interleaver.take(1, last=True) is None
