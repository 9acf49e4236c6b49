import pytest

from trainers.checkpoint import Progress
from trainers.schedule import Schedule


def test_boundaries_besides_come_in_between_and_move_none_of_the_others():
    schedule = Schedule(100, besides=[250, 120, 300])
    assert schedule.crossed(100, 310) == [120, 200, 250, 300]
    assert schedule.crossed(120, 199) == []
    assert schedule.crossed(120, 200) == [200]
    assert schedule.begin(260) == 200


@pytest.mark.parametrize(("watermark", "due"), [(249, False), (250, True), (251, True)])
def test_it_is_due_when_one_is_reached(watermark, due):
    assert Schedule(100, besides=[250]).due(200, watermark) is due


def test_without_requests_there_is_nothing_to_say():
    schedule = Schedule(100)
    assert schedule.marks() == schedule.accept(Progress(watermark=150)) == {}
