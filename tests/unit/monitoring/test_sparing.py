from types import SimpleNamespace

import pytest

from monitoring import sparing
from monitoring.sparing import Sparing


@pytest.fixture
def clock(monkeypatch):
    """Time that passes, and what of it this thread computes, seconds."""
    now = SimpleNamespace(passed=100.0, computed=5.0)
    monkeypatch.setattr(sparing.time, "monotonic", lambda: now.passed)
    monkeypatch.setattr(sparing.time, "thread_time", lambda: now.computed)
    return now


@pytest.mark.parametrize(
    ("passes", "computes", "rest"), [(0.01, 0.01, 1.0), (2.0, 0.5, 4.5), (9.0, 3.0, 10.0)]
)
def test_it_rests_nine_times_what_it_computed_within_bounds(clock, passes, computes, rest):
    made = Sparing(1.0, 10.0)
    assert made.due
    with made.turn():
        clock.passed += passes
        clock.computed += computes
    clock.passed += rest - 0.001
    assert not made.due
    clock.passed += 0.002
    assert made.due
