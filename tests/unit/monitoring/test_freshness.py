import json
import math

from hypothesis import given
from hypothesis import strategies as st

from monitoring.freshness import BUCKETS, Delays, Freshness


def test_published_with_the_first_version_above():
    known = Freshness()
    known.announced(5, 10_000)
    known.predicted(3, appended_at=1_000, at=2_500)  # published with 5, read afterwards
    known.predicted(5, appended_at=4_000, at=4_200)  # 5 is what predicted it: not published yet
    assert (known.learnt.count, known.published.count) == (2, 1)
    assert known.published.total == 9.0
    known.announced(5, 99_000)  # said again at a restart
    assert known.published.count == 1
    known.announced(8, 24_000)
    assert known.published.count == 2 and known.published.total == 9.0 + 20.0


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("predict"), st.integers(0, 40), st.integers(0, 10)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(EVENTS, st.lists(st.integers(0, 40), max_size=6), st.integers(0, 30))
def test_the_order_of_topics_and_restarts_change_nothing(events, versions, at):
    versions = sorted(set(versions))
    one, other = Freshness(), Freshness()
    for version in versions:  # all announcements are read first
        one.announced(version, version * 1_000)
    for i, (what, version, appended) in enumerate(events):
        if i == at:
            for announced in versions:
                other.announced(announced, announced * 1_000)
        if what == "restart":
            other = Freshness.from_state(json.loads(json.dumps(other.state())))
        else:
            one.predicted(version, appended, appended + 5)
            other.predicted(version, appended, appended + 5)
    for announced in versions:
        other.announced(announced, announced * 1_000)
    assert one.published.counts == other.published.counts
    assert math.isclose(one.published.total, other.published.total)
    expected = sum(
        any(v > version for v in versions) for what, version, _ in events if what == "predict"
    )
    assert one.published.count == expected


def test_a_delay_on_a_bound_is_within_it():
    delays = Delays()
    delays.observe(BUCKETS[2])
    delays.observe(-5)  # clocks disagree
    delays.observe(10**9, times=2)
    assert delays.counts[2] == 1 and delays.counts[0] == 1 and delays.counts[-1] == 2
    assert delays.within(0.5) == BUCKETS[2] and delays.within(0.9) == math.inf
    assert math.isnan(Delays().within(0.5))


def test_what_is_remembered_of_announcements_is_bounded():
    known = Freshness()
    for version in range(3_000):
        known.announced(version, version)
    assert len(known.state()["announced"]) == 1_000
    known.predicted(10, 0, 1)  # when that was published is not known any more
    assert known.learnt.count == 1 and known.published.count == 0
    assert known.state()["waiting"] == []


def test_what_waits_to_be_published_is_bounded():
    known = Freshness()
    for version in range(60_000):
        known.predicted(version, 0, 1)
    assert len(known.state()["waiting"]) == 50_000
    known.announced(60_000, 5)
    assert known.published.count == 50_000
