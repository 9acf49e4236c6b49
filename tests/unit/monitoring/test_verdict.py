"""The demo's last words and its exit status."""

import numpy as np
import pytest

from monitoring.hand_downs import Effect
from monitoring.metrics import Interval
from monitoring.snapshot import LevelState, Snapshot
from monitoring.verdict import other_levels, verdict
from monitoring.window import measure


def judge(low: float, high: float = 0.7, **more: float) -> tuple[list[str], bool]:
    user = np.array([1, 1, 2, 2])
    metrics = measure(user, np.array([0, 1, 1, 0]), np.array([0.1, 0.4, 0.3, 0.2], np.float32))
    counts = {"written": 100, "learnt": 100, "repeated": 0, "batch": 8} | more
    return verdict(metrics, Interval(low, high), 0.5, **counts)


@pytest.mark.parametrize(
    ("low", "beaten"), [(0.51, True), (0.5, False), (0.4, False), (float("nan"), False)]
)
def test_only_an_interval_above_the_floor_beats_it(low, beaten):
    words, verdict_ = judge(low)
    assert verdict_ is beaten
    assert ("NOT" in words[-1]) is not beaten


def test_what_was_not_learnt_is_said():
    assert "100 of 100" in judge(0.6)[0][0] and "(" not in judge(0.6)[0][0]
    assert "5 wait for a full batch" in judge(0.6, learnt=95)[0][0]
    assert "50 not in the time" in judge(0.6, learnt=50)[0][0]
    assert "each once (10% held back from learning" in judge(0.6, held_back=0.1)[0][0]
    assert "7 predicted again" in judge(0.6, repeated=7)[0][0]


def test_the_other_levels_have_a_sentence_each():
    levels = (
        LevelState("actr", model_version=12, history=0.93),
        LevelState("cpm", model_version=1_640, event_time=86_400.0, gauc=0.71, lag_records=300),
        LevelState("tpm", model_version=1_600),
    )
    assert other_levels(Snapshot(0.0, levels=levels, hand_downs=(Effect(0, 0.6, 0.7),))) == [
        "cpm: version 1,640, learnt up to event time 1970-01-02 00:00, GAUC 0.710; "
        "300 records behind; 1 hand-downs taken over since this start",
        "tpm: version 1,600, learnt up to event time –, GAUC –; "
        "93% of the last ads had a history from it",
    ]
    (word,) = other_levels(Snapshot(0.0, levels=(LevelState("actr"), LevelState("cpm"))))
    assert word.startswith("cpm: no version yet")
