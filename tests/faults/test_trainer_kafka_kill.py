"""kill -9 of Kafka under a running trainer, which waits and goes on by itself."""

from __future__ import annotations

import pytest
from trainer_support import assert_same_end, wait_until


@pytest.mark.timeout(240)
def test_kafka_is_killed_on_the_way_and_at_the_end(make_home, mortal_kafka, undisturbed):
    home = make_home()
    life = home.live()
    last = undisturbed.home.newest_step()
    try:
        wait_until(lambda: home.reached() >= 15, 60, "step 15")
        mortal_kafka.kill()
        wait_until(lambda: "is lost; waiting for it" in life.said(), 30, "word of it")
        assert life.status is None and home.reached() < last, life.said()
        mortal_kafka.restart()
        # Once more when there is nothing left but to say what the last model is.
        wait_until(lambda: home.reached() == last, 90, "the last checkpoint")
        mortal_kafka.kill()
    finally:
        mortal_kafka.restart()
    assert life.end(90) == 0, life.said()
    assert assert_same_end(home, undisturbed) == 0, "the process went on, it did not start over"
    assert "Traceback" not in life.said()
    assert len(life.said().splitlines()) <= 10, f"said once, not at every attempt: {life.said()}"
