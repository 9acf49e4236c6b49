"""kill -9 of Kafka under a running trainer, which waits and goes on by itself."""

from __future__ import annotations

import pytest
from conftest import assert_same_end
from trainer_support import wait_until


@pytest.mark.timeout(240)
def test_kafka_killed_twice(make_home, mortal_kafka, undisturbed):
    home = make_home()
    life = home.live()
    try:
        # The second time it has caught up meanwhile, and often is about to end.
        for step in (15, 75):
            wait_until(lambda step=step: home.reached() >= step, 60, f"step {step}")
            mortal_kafka.kill()
            assert not mortal_kafka.running and life.status is None
            # Nothing more is on disk than what Kafka has taken: the trainer comes to a stand.
            wait_until(lambda: home.writing() or life.status is not None, 30, "a checkpoint")
            assert life.status is None, life.said()
            mortal_kafka.restart()
    finally:
        if not mortal_kafka.running:
            mortal_kafka.restart()
    assert life.end(90) == 0, life.said()
    assert assert_same_end(home, undisturbed) == 0, "the process went on, it did not start over"
    assert "Traceback" not in life.said()
    assert len(life.said().splitlines()) <= 10, f"said once, not at every attempt: {life.said()}"
