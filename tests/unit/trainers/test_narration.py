"""What a trainer says."""

import numpy as np

from monitoring.window import measure
from trainers.checkpoint import Progress
from trainers.narration import beginning, closing, ending, going

EMPTY = measure(np.array([]), np.array([]), np.array([]))
GOOD = measure(np.array([1, 1]), np.array([0, 1]), np.array([0.1, 0.2]))


def test_it_says_where_it_goes_on():
    assert "starting anew" in beginning("actr", "ads", "cpu", 1, Progress())
    words = beginning("actr", "ads", "cpu", 2, Progress(step=4, impressions=4096))
    assert "4,096" in words and "version 4" in words and "2 ranks" in words


def test_how_it_goes_is_one_line():
    words = going(Progress(impressions=10, watermark=1_735_689_600_000), 5.0, 3, GOOD)
    assert words == (
        "10 learnt (5/s), event time 2025-01-01 00:00, lag 3 records, GAUC 1.000 over the last 2"
    )
    assert "GAUC undefined" in going(Progress(), 0.0, 0, EMPTY)


def test_a_log_that_the_schema_does_not_describe_is_not_silent():
    lines = ending(Progress(), EMPTY, {"missing-column": 10_000})
    assert "missing-column 10,000" in lines[1] and "--config" in lines[2]
    assert len(ending(Progress(impressions=1), GOOD, {"bad-json": 1})) == 2
    assert len(ending(Progress(impressions=1), GOOD, {})) == 1


def test_a_closed_period_says_what_was_sent():
    words = closing(1_735_689_600_000, {"user": 1_200, "item": 34}, 0.123)
    assert words == (
        "period up to 2025-01-01 00:00 closed: vectors of 1,200 users, 34 items in 0.12 s"
    )
