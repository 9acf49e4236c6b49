import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refresh_support import DAY, DIM, expected, history_config, period

from embeddings.history import Snapshot
from embeddings.history_records import decode_window
from embeddings.refresh_shard import Outcome, Shard
from errors import UserError

CONFIG = history_config()


class World:
    """A log of snapshots, a table, and whoever has the partition now; what readers were told."""

    def __init__(self, config=CONFIG):
        self.config, self.table, self.log, self.told = config, {}, [], {}
        self.first = 0  # offset of the oldest snapshot that exists
        self.now = 0
        self.take_over()

    def take_over(self):
        self.shard = Shard(3, self.table, self.config)
        trouble = self.shard.recover(self.first, self.first + len(self.log))
        self.now = self.shard.newest_period_end
        return trouble

    def write(self, *snapshots):
        self.log += snapshots

    def read(self, limit=None):
        """Take snapshots from the shard's position on, as Kafka would deliver them."""
        outcomes = []
        begin = self.shard.next_offset - self.first
        for at, snapshot in list(enumerate(self.log))[begin:][:limit]:
            self.now = max(self.now, snapshot.period_end)
            outcomes.append(self.shard.take(self.first + at, snapshot, self.now))
            self.publish()
        return outcomes

    def refresh(self):
        self.shard.expire(self.now)
        self.publish()

    def publish(self):
        for record in self.shard.due(self.now):
            self.told[record.key] = record.value
            self.shard.published(record.key)

    def is_right(self):
        return self.told == expected(self.log, self.config)


def made(*days):
    world = World()
    for day in days:
        world.write(*period(day))
    world.read()
    return world


def test_what_readers_are_told_is_what_the_pure_functions_say():
    world = made(1, 2, 3)
    assert world.is_right()
    assert set(world.told) == {b"%s/%d" % (k, b) for k in (b"user", b"item") for b in range(4)}


def test_outcomes():
    world = made(5, 6, 7)
    world.write(*period(7)[:1], *period(1, of=range(200))[:1])
    repeated, late = world.read()
    assert repeated is Outcome.REPEATED
    assert late is Outcome.MERGED  # some were not seen since
    everyone = [period(day, entities=200)[0] for day in (8, 9, 10, 4)]
    world.write(*everyone)
    assert world.read() == [Outcome.MERGED] * 3 + [Outcome.OLD]
    assert world.is_right()


def test_beyond_the_ttl_nothing_comes_back():
    world = made(20)
    world.write(*period(2, of=range(200, 400))[:1])
    assert world.read() == [Outcome.OLD]
    assert world.is_right()


def test_an_empty_bucket_still_says_that_its_period_is_over():
    world = World()
    world.write(Snapshot("user", 0, DAY, np.empty(0, np.int64), np.empty((0, DIM), np.float16)))
    assert world.read() == [Outcome.MERGED]
    assert decode_window(world.told[b"user/0"])[2].newest_period_end == DAY


def test_a_bucket_that_nobody_speaks_of_any_more_is_taken_back():
    world = made(1)
    left_out = period(30)[1:]
    world.write(*left_out)
    world.read()
    assert world.told[b"user/0"] is not None
    world.refresh()
    assert world.told[b"user/0"] is None
    assert world.is_right()
    world.take_over()
    world.told.clear()
    world.refresh()
    assert world.told == expected(world.log, CONFIG)


def test_a_successor_goes_on_from_the_table():
    world = World()
    world.write(*period(1), *period(2))
    world.read(limit=11)
    assert world.take_over() == ""
    assert world.shard.next_offset == 11
    world.read()
    assert world.is_right()


@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (lambda table: table.clear(), "is empty"),
        (lambda table: table.pop(b"3/position"), "is empty"),
        (lambda table: table.pop(b"3/user/2"), "has lost what was kept of user/2"),
        (lambda table: table.update({b"3/user/2": b"123"}), "cannot be read"),
        (lambda table: table.update({b"3/position": b"{}"}), "cannot be read"),
        (lambda table: table.update({b"3/position": b"{"}), "cannot be read"),
    ],
)
def test_a_table_that_lost_something_is_made_anew(lose, said):
    world = made(1, 2, 3)
    lose(world.table)
    world.told.clear()
    assert said in world.take_over()
    assert world.shard.next_offset == 0
    world.read()
    assert world.is_right()


def test_a_row_from_before_is_found_out():
    world = made(1)
    old = dict(world.table)
    world.write(*period(2))
    world.read()
    world.table[b"3/item/1"] = old[b"3/item/1"]  # a late word of the one before
    assert "has lost what was kept of item/1" in world.take_over()
    world.read()
    assert world.is_right()


def test_an_older_table_as_a_whole_is_believed_as_far_as_it_goes():
    world = made(1)
    old = dict(world.table)
    world.write(*period(2))
    world.read()
    world.table.clear()
    world.table.update(old)
    assert world.take_over() == ""
    assert world.shard.next_offset == 8
    world.read()
    assert world.is_right()


@pytest.mark.parametrize("change", [{"periods": 3}, {"ttl_hours": 24 * 400}])
def test_other_settings_make_the_table_anew(change):
    world = made(1, 2, 20, 21)
    world.config = history_config(**change)
    assert "other settings" in world.take_over()
    world.read()
    assert world.is_right()


def test_another_way_to_combine_needs_no_new_table_and_is_told_at_once():
    world = made(1, 2)
    world.config = history_config(aggregation="mean")
    assert world.take_over() == ""
    world.publish()
    assert world.is_right()


def test_snapshots_made_anew_or_deleted():
    world = made(1, 2)
    world.log = period(9)
    assert "ahead of the snapshots (offset 16 of 8)" in world.take_over()
    world.read()
    assert world.is_right()
    world.first = 100  # retention took some that were never read
    world.write(*period(10))
    assert world.take_over() == ""
    assert world.shard.next_offset == 100


def test_while_catching_up_readers_do_not_go_back_in_time():
    world = made(1, 2, 3)
    world.table.clear()
    world.told.clear()
    world.take_over()
    world.read(limit=23)
    world.refresh()
    assert not world.told
    world.read()
    assert world.is_right()


def test_expiring_twice_or_at_an_earlier_time_changes_nothing():
    world = made(1, 2)
    assert world.shard.expire(9 * DAY) == 0
    assert world.shard.expire(11 * DAY + 1) > 0
    assert world.shard.expire(11 * DAY + 1) == 0
    assert world.shard.expire(3 * DAY) == 0


def test_all_is_said_again_when_asked():
    world = made(1)
    assert not list(world.shard.due(world.now))
    world.shard.publish_again()
    assert {record.key for record in world.shard.due(world.now)} == set(world.told)


def test_the_position_is_the_newest_row_always():
    """Compaction keeps a changelog's last record, and recovery waits for it."""

    class Changelog(dict):
        last = None

        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            self.last = key

    world = World()
    world.table = Changelog()
    world.take_over()
    world.write(*period(1))
    world.read()
    assert world.table.last == b"3/position"
    world.shard.expire(100 * DAY)
    assert world.table.last == b"3/position"
    world.shard.skip(8)
    assert world.table.last == b"3/position"
    assert orjson.loads(world.table[b"3/position"])["next"] == 9


def test_snapshots_that_do_not_fit_are_refused():
    world = World()
    whole = period(1)[0]
    wide = Snapshot("user", 0, 2 * DAY, whole.ids_N, np.ones((len(whole.ids_N), 9), np.float16))
    other_bucket = Snapshot("user", 1, DAY, whole.ids_N, whole.vectors_ND)
    beyond = Snapshot("user", 4, DAY, whole.ids_N, whole.vectors_ND)
    world.shard.take(0, whole, DAY)
    before = dict(world.table)
    for bad, words in ((wide, "width 9"), (other_bucket, "other buckets"), (beyond, "4 of 4")):
        with pytest.raises(ValueError, match=words):
            world.shard.take(1, bad, DAY)
    assert world.table == before


def test_a_bucket_too_large_for_a_message_names_the_way_out():
    shard = Shard(0, {}, CONFIG, max_bytes=500)
    shard.recover(0, 0)
    with pytest.raises(UserError, match="raise history.buckets"):
        shard.take(0, period(1)[0], DAY)


PERIODS = [period(day, buckets=2, entities=6, of=range(12)) for day in (1, 2, 3, 5, 14, 15)]
EVENTS = st.lists(
    st.one_of(
        st.integers(0, 23),  # one of the snapshots is written: in any order, maybe twice
        st.sampled_from(["read", "read one", "take over", "lose a row", "lose all", "refresh"]),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.integers(0, 2**16))
def test_whatever_happens_in_the_end_readers_know_what_the_pure_functions_say(events, seed):
    rng = np.random.default_rng(seed)
    world = World(history_config(buckets=2))
    for event in events:
        if isinstance(event, int):
            world.write(PERIODS[event // 4][event % 4])
        elif event == "take over":
            world.take_over()
        elif event == "lose a row" and world.table:
            world.table.pop(list(world.table)[rng.integers(len(world.table))])
            world.take_over()
        elif event == "lose all":
            world.table.clear()
            world.take_over()
        elif event == "refresh":
            world.refresh()
        else:
            world.read(limit=1 if event == "read one" else None)
    world.read()
    world.refresh()
    assert world.is_right()
