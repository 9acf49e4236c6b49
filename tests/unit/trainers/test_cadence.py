import pytest

from trainers.cadence import Cadence


def test_boundaries_are_multiples_of_the_interval():
    cadence = Cadence(100)
    assert cadence.crossed(200, 299) == []
    assert cadence.crossed(200, 300) == [300]
    assert cadence.crossed(200, 555) == [300, 400, 500]


def test_a_boundary_is_crossed_once():
    cadence = Cadence(7)
    closed, crossed = 0, []
    for watermark in (3, 6, 7, 7, 13, 14, 30):
        over = cadence.crossed(closed, watermark)
        crossed += over
        closed = over[-1] if over else closed
    assert crossed == [7, 14, 21, 28]


def test_after_another_interval_the_next_multiple_counts():
    assert Cadence(100).crossed(closed_ms=250, batch_watermark_ms=420) == [300, 400]


def test_a_watermark_that_fell_back_crosses_nothing():
    assert Cadence(100).crossed(500, 120) == []


def test_a_log_begins_in_the_interval_of_its_first_impressions():
    assert Cadence(100).begin(399) == 300
    assert Cadence(100).begin(400) == 400


def test_an_interval_must_be_positive():
    with pytest.raises(ValueError, match="every_ms = 0"):
        Cadence(0)
