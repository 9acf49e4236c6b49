"""The reader's parts that need no broker."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.dedupe import RecentIds
from streaming.log_gap import Gap, LogGapError, LogTruncatedError
from streaming.silence import Silence


def test_a_partition_is_silent_after_it_was_quiet_for_long_enough():
    silence = Silence(seconds=5)
    assert [silence.silent(0, 10, 10, now) for now in (0, 2, 4, 5)] == [False, False, False, True]


def test_a_partition_that_is_behind_is_never_silent():
    silence = Silence(seconds=5)
    assert not any(silence.silent(0, 10, 11, now) for now in range(0, 100, 2))


def test_useless_records_do_not_keep_a_partition_alive():
    """The end always runs ahead of us, but what it was a moment ago was reached."""
    silence = Silence(seconds=5)
    judged = [silence.silent(0, 10 * now, 10 * now + 5, now) for now in range(20)]
    assert True in judged and judged.index(True) >= 5


def test_something_usable_and_an_absent_broker_start_the_wait_again():
    for interrupt in (lambda s: s.heard(0), lambda s: s.reset()):
        silence = Silence(seconds=5)
        assert not silence.silent(0, 10, 10, 0)
        interrupt(silence)
        assert not silence.silent(0, 10, 10, 5)
        assert silence.silent(0, 10, 10, 10)


def test_partitions_are_judged_one_by_one():
    silence = Silence(seconds=1)
    silence.silent(0, 5, 5, 0)
    silence.silent(1, 5, 5, 0)
    silence.heard(1)
    assert silence.silent(0, 5, 5, 1) and not silence.silent(1, 5, 5, 1)


@given(st.lists(st.lists(st.integers(0, 2**62), max_size=20), max_size=20))
def test_nothing_is_counted_that_was_not_a_repeat(batches):
    recent, seen, repeats, counted = RecentIds(1_000), set(), 0, 0
    for batch in batches:
        counted += recent.count(np.array(batch, dtype=np.int64))
        for i in batch:
            repeats += i in seen
            seen.add(i)
    assert counted <= repeats


@pytest.mark.parametrize("pattern", ["random", "counted up", "multiples of 4,096"])
def test_repeats_within_the_window_are_noticed(pattern):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**62, 65_536)
    if pattern != "random":
        ids = rng.permutation(65_536) * (1 if pattern == "counted up" else 4_096)
    recent = RecentIds(65_536)
    assert sum(recent.count(part) for part in np.split(ids, 16)) == 0
    again = sum(recent.count(part) for part in np.split(ids, 16))
    assert again > 0.93 * len(ids)


def test_an_id_seen_before_counts_as_often_as_it_comes():
    recent = RecentIds(1_000)
    assert recent.count(np.array([5, 6, 5])) == 1
    assert recent.count(np.array([5, 5, 7])) == 2
    assert recent.count(np.array([], np.int64)) == 0


def test_a_gap_names_offsets_and_times_as_far_as_known():
    gap = Gap("ads", 3, 10, 25, 1_700_000_000_000, 1_700_000_060_000)
    assert str(gap) == (
        "topic 'ads' partition 3: offsets 10 to 24 (15 records, written after "
        "2023-11-14T22:13:20Z before 2023-11-14T22:14:20Z) are gone"
    )
    assert str(Gap("ads", 3, 10, 25)) == (
        "topic 'ads' partition 3: offsets 10 to 24 (15 records) are gone"
    )
    error = LogGapError([gap, Gap("ads", 4, 0, 1)])
    assert error.gaps[0] == gap and "partition 4" in str(error)
    assert "beyond the log's end at 7" in str(LogTruncatedError("ads", 3, 9, 7))
