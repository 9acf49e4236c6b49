"""Windows and generations equal brute force, whatever the batches and restarts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring import metrics
from monitoring.level_quality import LevelQuality, measured
from monitoring.monitor_settings import MonitorConfig, label
from monitoring.sampled_rows import Predicted, SampledRows, stays
from monitoring.window import measure

CONFIG = MonitorConfig(windows_seconds=(10, 30, 60), generations=2)


def rows_of(n, seed, spread_seconds=240, users=6):
    """n predictions; event times go on by and large, some far too late; scores tie."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, spread_seconds * 1000, n)) + 10_000_000
    time -= rng.integers(0, 20_000, n) * (rng.random(n) < 0.2)
    return Predicted(
        event_time=time,
        user=rng.integers(0, users, n),
        click=rng.integers(0, 2, n).astype(np.int8),
        probability=(rng.integers(0, 5, n) / 5).astype(np.float32),
        version=np.sort(rng.integers(0, 30, n)),
    )


def update(level, rows, partition):
    """Half of a partition's users come from one partition of impressions, half from another."""
    level.update(rows, partition, 2 * partition + rows.user % 2)


def held_of(level, name):
    found = [a for n, a in level.state().items() if n.endswith(f".{name}")]
    return np.concatenate(found)


def windowed(rows, window_ms, end):
    return rows.take((rows.event_time >= end - window_ms) & (rows.event_time < end))


def brute(rows):
    order = np.lexsort((rows.click, rows.probability, rows.user))
    rows = rows.take(order)
    return measure(rows.user, rows.click, rows.probability)


STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1, "announce", "restart", "look"]), st.integers(1, 60)),
    max_size=14,
)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 150), st.sets(st.integers(1, 30), max_size=4), STEPS)
def test_equals_brute_force_whatever_the_batches_restarts_and_partitions(seed, n, announced, steps):
    parts = [rows_of(n, seed), rows_of(n, seed + 1)]  # two partitions
    level = LevelQuality(CONFIG)
    done, waiting = [0, 0], sorted(announced)
    for what, count in [*steps, (0, n), (1, n), *[("announce", 1)] * len(waiting)]:
        if what == "announce" and waiting:
            level.announce(waiting.pop(0), at=7)
        elif what == "restart":
            state, level = level.state(), LevelQuality(CONFIG)
            level.restore({name: array.copy() for name, array in state.items()})
        elif what == "look":
            level.quality()
        elif what in (0, 1):
            end = min(done[what] + count, n)
            update(level, parts[what].take(np.arange(done[what], end)), what)
            done[what] = end
        level.advance([p for p in (0, 1) if done[p] < n])
    level.advance()

    whole = Predicted.concatenate(parts)
    assert_told_of(level.quality(), whole, announced)
    assert level.predictions == len(whole)
    assert level.late == sum(late_of(p.take(p.user % 2 == s)) for p in parts for s in (0, 1))


def assert_told_of(quality, whole, announced):
    if not len(whole):
        assert not quality.complete
        return
    newest = int(whole.event_time.max())
    assert quality.newest == newest
    for window in CONFIG.windows_ms:
        end = newest // window * window
        if end <= int(whole.event_time.min()) // window * window:
            assert window not in quality.complete
            continue
        found = quality.complete[window]
        assert found.end == end
        assert repr(found.metrics) == repr(brute(windowed(whole, window, end)))
    longest = CONFIG.windows_ms[-1]
    if longest in quality.complete:
        inside = windowed(whole, longest, newest // longest * longest)
        assert sum(b.impressions for b in quality.deciles) == len(inside)
    assert_generations(quality.generations, whole, announced)


def assert_generations(found, whole, announced):
    kept = sorted({0, *announced})[-CONFIG.generations :]
    assert [g.version for g in found] == kept
    for generation, before in zip(found, [*kept[1:], 10**9], strict=True):
        own = whole.take((whole.version >= generation.version) & (whole.version < before))
        assert repr(generation.metrics) == repr(brute(own))
        assert generation.published_at == (7 if generation.version else 0)
        if len(own):
            assert (generation.begin, generation.end) == (
                own.event_time.min(),
                own.event_time.max(),
            )


def late_of(rows):
    """By definition: its shortest window had ended when an earlier one of the log came."""
    newest, late, step = -1, 0, CONFIG.windows_ms[0]
    for t in rows.event_time.tolist():
        late += (t // step + 1) * step <= newest
        newest = max(newest, t)
    return late


def test_what_comes_late_changes_the_windows_that_are_still_held():
    level, rows = LevelQuality(CONFIG), rows_of(200, 3)
    time = np.linspace(600_000, 719_999, 200).astype(np.int64)
    early, rest = np.arange(0, 200, 2), np.arange(1, 200, 2)
    rows = Predicted(time, rows.user, rows.click, rows.probability, rows.version)
    update(level, rows.take(early), 0)
    level.advance()
    before = level.quality().complete[10_000]
    update(level, rows.take(rest), 0)
    after = level.quality().complete[10_000]
    assert before.end == after.end == 710_000
    assert after.metrics == brute(windowed(rows, 10_000, 710_000)) != before.metrics
    assert level.late > 80


def test_no_window_is_complete_before_every_partition_has_passed_it():
    level, rows = LevelQuality(CONFIG), rows_of(300, 4)
    update(level, rows, 0)
    level.advance(behind=[1])
    assert not level.quality().complete
    update(level, rows.take(np.arange(100)), 1)
    level.advance(behind=[1])
    slow = int(rows.event_time[:100].max())
    assert level.quality().complete[10_000].end == slow // 10_000 * 10_000
    level.advance()
    assert level.quality().complete[10_000].end == rows.event_time.max() // 10_000 * 10_000


def test_a_window_without_predictions_is_told_as_empty():
    level, rows = LevelQuality(CONFIG), rows_of(50, 5)
    update(level, rows, 0)
    later = Predicted(*(c[:1] for c in rows.columns()))
    later.event_time[:] += 10_000_000
    update(level, later, 0)
    level.advance()
    point = level.quality().complete[60_000]
    assert point.metrics.impressions == 0 and math.isnan(point.metrics.gauc)


def test_users_with_clicks_only_are_skipped_and_leave_gauc_undefined():
    n = 20
    rows = Predicted(
        np.arange(n) * 4_000, np.arange(n) % 3, np.ones(n, np.int8),
        np.full(n, 0.5, np.float32), np.zeros(n, np.int64),
    )  # fmt: skip
    level = LevelQuality(CONFIG)
    update(level, rows, 0)
    level.advance()
    found = level.quality().complete[30_000].metrics
    assert math.isnan(found.gauc) and (found.groups_used, found.groups_skipped) == (0, 3)


def test_points_are_remembered_and_bounded():
    config = MonitorConfig(windows_seconds=(10, 60), points=5)
    level, rows = LevelQuality(config), rows_of(600, 6, spread_seconds=600)
    for piece in np.array_split(np.arange(600), 20):
        update(level, rows.take(piece), 0)
        level.advance()
    points = level.quality().points[10_000]
    assert [p.end for p in points] == [points[-1].end - 10_000 * k for k in range(4, -1, -1)]
    for point in points:
        assert point.metrics == brute(windowed(rows, 10_000, point.end))


def test_rows_are_let_go_when_no_window_and_no_generation_needs_them():
    level, rows = LevelQuality(CONFIG), rows_of(2_000, 7, spread_seconds=2_000)
    level.announce(10, 7)
    level.announce(29, 7)
    update(level, rows, 0)
    level.advance()
    held = held_of(level, "version")
    assert 0 < len(held) < 1_900
    assert (rows.version >= 10).sum() == (held >= 10).sum()


def test_above_the_bound_users_are_sampled_whole_and_the_share_is_told():
    config = MonitorConfig(windows_seconds=(10, 60), max_rows=1_000)
    level, rows = LevelQuality(config), rows_of(6_000, 8, spread_seconds=30, users=400)
    for piece in np.array_split(np.arange(6_000), 30):
        update(level, rows.take(piece), 0)
        assert len(held_of(level, "user")) <= 1_000
    level.advance()
    quality = level.quality()
    assert quality.sample == 1 / 8
    user = held_of(level, "user")
    assert set(user) == set(user[np.isin(user, rows.user)])
    kept = rows.take(np.isin(rows.user, np.unique(user)))
    assert len(user) == len(kept)  # whoever stays has all of his rows
    found = quality.complete[10_000]
    assert found.metrics == brute(windowed(kept, 10_000, found.end))


def test_the_sample_widens_again_and_a_window_over_both_takes_the_smaller():
    def at(step, n, seed):
        rows = rows_of(n, seed, users=300)
        return Predicted(np.full(n, 1_000 * step), *rows.columns()[1:])

    held = SampledRows(1_000, 1_000)
    held.add(0, at(0, 3_000, 9))
    held.drop(1, 10**9)
    assert held.share == 1 / 4
    held.add(1, at(1, 300, 10))  # held with the smaller share, but there is room now
    held.add(2, at(2, 10, 11))
    held.add(3, at(3, 300, 12))
    assert held.share == 1
    assert len(held.between(3, 3)) == 300
    both = held.between(1, 3).user
    assert 0 < len(both) < 300 and stays(both, 2).all()


def test_one_user_with_more_than_can_be_held_does_not_break_the_bound():
    for user in (0, 1, 17):
        held = SampledRows(1_000, 500)
        for _ in range(20):
            held.add(0, at([100] * 100, user=user))
            assert held.rows.held <= 500


@given(st.integers(0, 1000), st.permutations(range(25)))
def test_the_order_of_rows_changes_not_a_bit(seed, order):
    rows = rows_of(25, seed)
    assert repr(measured(rows)) == repr(measured(rows.take(np.array(order))))
    assert measured(rows).ctr == rows.click.mean()
    assert measured(rows).impressions == 25
    assert metrics.auc(rows.click, rows.probability) == pytest.approx(
        measured(rows).auc, nan_ok=True
    )


def test_generations_published_while_their_predictions_were_read_already():
    level, rows = LevelQuality(CONFIG), rows_of(300, 11)
    update(level, rows, 0)
    level.quality()
    level.announce(20, 7)
    level.announce(20, 9)  # a restart announces again
    found = level.quality().generations
    assert [g.version for g in found] == [0, 20] and found[1].published_at == 7
    assert found[1].metrics == brute(rows.take(rows.version >= 20))
    assert found[0].metrics == brute(rows.take(rows.version < 20))


def test_more_generations_than_before_begin_with_what_is_held():
    level, rows = LevelQuality(CONFIG), rows_of(300, 12)
    for version in (5, 10, 20):
        level.announce(version, 7)
    update(level, rows, 0)
    more = LevelQuality(CONFIG.model_copy(update={"generations": 5}))
    more.restore(level.state())
    assert [g.version for g in more.quality().generations] == [10, 20]
    more.announce(29, 7)
    assert [g.version for g in more.quality().generations] == [10, 20, 29]


def test_another_set_of_windows_does_not_go_on():
    state = LevelQuality(CONFIG).state()
    with pytest.raises(KeyError):
        LevelQuality(MonitorConfig(windows_seconds=(10, 40))).restore(state)


def test_labels():
    assert [label(1000 * s) for s in (300, 3600, 86_400, 21_600, 604_800, 90)] == [
        "5m", "1h", "1d", "6h", "7d", "90s",
    ]  # fmt: skip


def at(times, version=0, user=1):
    n = len(times)
    return Predicted(
        np.array(times, np.int64), np.full(n, user), np.arange(n, dtype=np.int8) % 2,
        np.linspace(0.1, 0.9, n, dtype=np.float32), np.full(n, version),
    )  # fmt: skip


def restarted(level):
    made = LevelQuality(CONFIG)
    made.restore(level.state())
    return made


def test_what_is_late_is_known_after_a_restart():
    level = LevelQuality(CONFIG)
    update(level, at([5_000, 25_000]), 0)
    level = restarted(level)
    update(level, at([9_999, 10_000, 20_000]), 0)  # the last one's window is still open
    assert level.late == 2


def test_the_slowest_of_those_behind_decides():
    level = LevelQuality(CONFIG)
    for partition, time in ((0, 95_000), (1, 25_000), (2, 55_000)):
        update(level, at([5_000, time]), partition)
    level.advance(behind=[1, 2])
    assert level.quality().complete[10_000].end == 20_000


def test_a_kept_version_counts_what_comes_for_it_however_late():
    level = LevelQuality(CONFIG)
    level.announce(3, 7)
    level.announce(6, 7)
    update(level, at([5_000, 500_000], version=6), 0)
    level.advance()
    update(level, at([1_000, 2_000], version=5), 0)
    update(level, at([1_000, 2_000], version=2), 0)  # is not held any more
    assert [g.metrics.impressions for g in level.quality().generations] == [2, 2]
    assert level.quality().points[10_000][0].metrics.impressions == 1


def test_windows_that_were_never_looked_at_are_remembered_as_they_were():
    level = LevelQuality(CONFIG)
    rows = rows_of(600, 13, spread_seconds=600)
    for piece in np.array_split(np.arange(600), 20):
        update(level, rows.take(piece), 0)
        level.advance()
        level = restarted(level)
    found = level.quality().points[10_000]
    assert len(found) > 55
    assert all(repr(p.metrics) == repr(brute(windowed(rows, 10_000, p.end))) for p in found)


def test_what_comes_late_changes_the_deciles():
    level = LevelQuality(CONFIG)
    update(level, at([1_000, 2_000, 130_000]), 0)
    level.advance()
    assert sum(b.impressions for b in level.quality().deciles) == 0  # of 60 to 120 s
    update(level, at([61_000, 62_000]), 0)
    assert sum(b.impressions for b in level.quality().deciles) == 2
