"""kill -9 of the process that reads for a trainer: the end is the same to the last bit."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
from tests_support import knows_slices
from trainer_support import assert_same_end, wait_until

from streaming.reader_process import NAME


def reading_for(pid: int) -> psutil.Process:
    def found() -> list[psutil.Process]:
        return [child for child in psutil.Process(pid).children() if child.name() == NAME]

    wait_until(lambda: len(found()) == 1, 60, "the process that reads")
    return found()[0]


@pytest.mark.timeout(120)
def test_the_trainer_reads_on_by_itself(make_home, undisturbed):
    home = make_home()
    life = home.live()
    reading = reading_for(life.pid)
    wait_until(lambda: home.reached() >= 60, 60, "some steps")
    assert_short_slices(life.pid)
    reading.kill()
    assert life.end() == 0, life.said()
    assert "reader's process ended with status -9" in life.said()
    assert_same_end(home, undisturbed)


def assert_short_slices(pid: int) -> None:
    """As far as this kernel tells; without them a reader of low priority is in the way."""
    told = re.findall(r"se\.slice +: +(\d+)", Path(f"/proc/{pid}/sched").read_text())
    if knows_slices():
        assert told in ([], ["100000"])
