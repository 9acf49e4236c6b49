"""Early boundaries: accepted with a checkpoint, obeyed when that is on disk, once."""

import threading

import pytest
from pretend_trainer import SIZE, World, batches

from errors import UserError
from streaming.control import Request
from trainers.checkpoint import Progress, verify
from trainers.early import EARLY, MOST_WAITING, EarlySchedule, Inbox, Outcome
from trainers.ranks import Ranks

EVERY = 96  # ms, so that early boundaries are at multiples of 4
HOUR = 3_600_000


def request(at, ask="period", signal="log_loss"):
    return Request(ask, at, "natural", signal)


class Asked:
    """A schedule beside an inbox, with all that it tells; everything is on disk at once."""

    def __init__(self, *requests, every=EVERY, refusal="", marks=None, ranks=None, gap=0):
        self.inbox, self.told = Inbox(), []
        for one in requests:
            self.inbox.put(one)
        self.schedule = EarlySchedule(
            every,
            "period",
            ranks or Ranks(),
            self.inbox,
            lambda: self.on_disk,
            lambda *told: self.told.append(told),
            refusal,
            marks,
            gap,
        )
        self.on_disk = (marks or {}).get(EARLY, 0)

    def accept(self, closed, watermark):
        marks = self.schedule.accept(Progress(watermark=watermark, marks={"period": closed}))
        self.on_disk = marks.get(EARLY, 0)
        return marks

    @property
    def outcomes(self):
        return [outcome for outcome, _, _ in self.told]


# -- what becomes of a request -------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "watermark", "boundary"),
    [(970, 970, 972), (971, 972, 976), (964, 971, 972), (975, 975, 976), (961, 976, 980)],
)
def test_it_is_obeyed_after_the_alarm_and_after_what_is_learnt(at, watermark, boundary):
    asked = Asked(request(at))
    assert asked.accept(960, watermark) == {EARLY: boundary}
    assert asked.told == [(Outcome.TAKEN, request(at), boundary)]
    assert asked.schedule.crossed(960, boundary - 1) == []
    assert asked.schedule.crossed(960, boundary) == [boundary]
    assert asked.schedule.crossed(boundary, 1_060) == [1_056]


def test_of_a_long_schedule_at_the_end_of_the_hour():
    week = 168 * HOUR
    asked = Asked(request(10 * week + 30 * HOUR), every=week)
    assert asked.accept(10 * week, 10 * week + 31 * HOUR + 5)[EARLY] == 10 * week + 32 * HOUR


def test_before_the_log_begins_nothing_is_accepted():
    asked = Asked(request(970))
    assert asked.accept(0, 0) == {} and asked.told == []
    assert asked.accept(960, 970) == {EARLY: 972}


def test_a_boundary_at_or_after_the_alarm_answers_it():
    asked = Asked(request(960), request(955))
    assert asked.accept(960, 961) == {}
    assert asked.outcomes == [Outcome.ANSWERED] * 2 and not asked.inbox.waiting()


@pytest.mark.parametrize("watermark", [1_052, 1_055])
def test_the_schedule_answers_where_it_is_as_soon(watermark):
    asked = Asked(request(1_000))
    assert asked.accept(960, watermark) == {}
    assert asked.outcomes == [Outcome.ANSWERED] and not asked.inbox.waiting()


@pytest.mark.parametrize("at", [1_001, 9_999, 2**52])
def test_what_has_not_come_yet_waits_and_holds_nobody_up(at):
    asked = Asked(request(at), request(999))
    assert asked.accept(960, 1_000) == {EARLY: 1_004}
    assert asked.outcomes == [Outcome.TAKEN] and asked.inbox.waiting() == [request(at)]


def test_early_boundaries_keep_their_distance():
    asked = Asked(request(970), gap=24)
    assert asked.accept(960, 970) == {EARLY: 972}
    asked.inbox.put(request(974))
    assert asked.accept(972, 980) == {EARLY: 972}
    asked.inbox.put(request(995))
    assert asked.accept(972, 995) == {EARLY: 996}
    assert asked.outcomes == [Outcome.TAKEN, Outcome.TOO_SOON, Outcome.TAKEN]


def test_only_so_many_wait():
    asked = Asked(*(request(at) for at in range(1, MOST_WAITING + 1)))
    asked.inbox.put(request(1))  # again
    with pytest.raises(ValueError, match="are waiting"):
        asked.inbox.put(request(MOST_WAITING + 1))


@pytest.mark.parametrize("pending", [True, False])
def test_a_request_that_is_repeated_is_obeyed_once(pending):
    asked = Asked(request(970))
    asked.accept(960, 970)
    asked.inbox.put(request(970))
    marks = asked.accept(960 if pending else 972, 971 if pending else 973)
    assert marks == {EARLY: 972}
    assert asked.outcomes == [Outcome.TAKEN, Outcome.ANSWERED]


def test_one_boundary_answers_all_that_was_asked_before_it():
    asked = Asked(request(970), request(969, signal="ctr"), request(974, signal="ctr"))
    assert asked.accept(960, 970) == {EARLY: 972}
    assert asked.accept(960, 971) == {EARLY: 972}
    assert asked.accept(972, 974) == {EARLY: 976}
    assert asked.outcomes == [Outcome.TAKEN, Outcome.ANSWERED, Outcome.TAKEN]


def test_a_level_that_cannot_says_why():
    asked = Asked(request(970), refusal="there is nothing to hand down")
    assert asked.accept(960, 970) == {}
    assert asked.told == [(Outcome.REFUSED, request(970), 0)] and not asked.inbox.waiting()


# -- killed and started again --------------------------------------------------------------


class Early:
    """Makes a world's schedule, and remembers what it tells and what was on disk at boundaries."""

    def __init__(self, *requests):
        self.requests, self.told, self.durable = requests, [], []

    def __call__(self, world, marks):
        inbox = Inbox()
        for one in self.requests:
            inbox.put(one)

        def on_disk():
            world.saver.wait()
            self.durable.append(newest(world))
            return self.durable[-1]

        tell = lambda *told: self.told.append(told)  # noqa: E731
        return EarlySchedule(EVERY, "period", Ranks(), inbox, on_disk, tell, "", marks)


def newest(world):
    found = world.store.latest()
    return 0 if found is None else found.progress.marks.get(EARLY, 0)


def seen(world):
    return [(over, before) for over, before, *_ in world.loop.boundary.seen]


def life(folder, *requests, **more):
    """Forty batches, batch i of the event time i; the period began at 0."""
    return World(folder, batches(40), begun=1, early=Early(*requests), **more)


def learnt(count):
    return sum(range(count * SIZE))


@pytest.mark.parametrize("ahead", [1, 3])
def test_it_is_accepted_with_a_checkpoint_and_obeyed_between_two_batches(tmp_path, ahead):
    world = life(tmp_path, request(2), ahead=ahead)
    progress = world.run()
    # The first checkpoint is of three batches: event times up to 2.
    assert seen(world) == [([4], learnt(4))]
    assert progress.marks == {"period": 4, EARLY: 4} and world.sum == learnt(40)
    assert verify(world.store.latest().path).progress.marks == progress.marks


@pytest.mark.parametrize("ahead", [1, 3])
def test_killed_before_it_is_obeyed_it_is_obeyed_at_the_same_batch(tmp_path, ahead):
    killed = life(tmp_path, request(2), ahead=ahead, diverge_at=4)
    with pytest.raises(UserError):
        killed.run()
    killed.saver.close()
    assert seen(killed) == [] and newest(killed) == 4, "accepted, and on disk"
    again = life(tmp_path, ahead=ahead)  # nobody asks again
    again.run()
    assert seen(again) == [([4], learnt(4))]


def test_killed_after_it_was_obeyed_it_is_obeyed_again_from_the_same_state(tmp_path):
    killed = life(tmp_path, request(2), diverge_at=5)
    with pytest.raises(UserError):
        killed.run()
    killed.saver.close()
    again = life(tmp_path, request(2))
    again.run()
    assert seen(killed) == seen(again) == [([4], learnt(4))]


def test_killed_before_the_checkpoint_is_on_disk_nothing_was_done(tmp_path):
    killed = life(tmp_path, request(2), broken_disk=(3,), diverge_at=5)
    with pytest.raises(UserError):
        killed.run()
    killed.saver.close()
    assert seen(killed) == [] and killed.store.latest() is None
    again = life(tmp_path, request(2), every=9)
    again.run()
    assert seen(again) == [([12], learnt(12))]


def test_a_checkpoint_that_fails_puts_it_off(tmp_path):
    world = World(
        tmp_path, batches(40), begun=1, early=(early := Early(request(2))), broken_disk=(3,)
    )
    world.run()
    assert [outcome for outcome, *_ in early.told] == [
        Outcome.TAKEN,
        Outcome.POSTPONED,
        Outcome.TAKEN,
    ]
    ((over, before),) = seen(world)
    assert over == [early.told[-1][2]] and before == learnt(over[0])
    assert early.durable == [0, over[0]], "obeyed only once it was on disk"


@pytest.mark.parametrize("stop_after", range(1, 14))
def test_stopped_anywhere_and_going_on_it_is_obeyed_once(tmp_path, stop_after):
    first = life(tmp_path, request(2), stop_after=stop_after)
    first.run()
    second = life(tmp_path, request(2))
    second.run()
    ((over, before),) = seen(first) + seen(second)
    assert before == learnt(over[0]) and second.sum == learnt(40)


# -- several ranks -------------------------------------------------------------------------


class Two:
    """Two ranks in two threads, which exchange as real ones do."""

    def __init__(self):
        self.values, self.barrier = [None, None], threading.Barrier(2, timeout=10)

    def rank(self, number):
        two = self

        class Rank:
            rank, size = number, 2

            def exchange(self, value):
                two.values[number] = value
                two.barrier.wait()
                found = list(two.values)
                two.barrier.wait()
                return found

        return Rank()


def test_all_ranks_obey_rank_0_beyond_what_any_of_them_has_learnt():
    two = Two()
    asked = [Asked(request(965), ranks=two.rank(0)), Asked(ranks=two.rank(1))]
    found = [None, None]

    def accept(number, watermark):
        found[number] = asked[number].accept(960, watermark)

    threads = [threading.Thread(target=accept, args=(n, w)) for n, w in enumerate((966, 977))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{EARLY: 980}] * 2
    assert [one.schedule.crossed(960, 980) for one in asked] == [[980]] * 2
    assert asked[1].told == []
