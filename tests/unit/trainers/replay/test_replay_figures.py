import csv
import io
import json
import math
import re

import numpy as np
import pytest

from monitoring.metrics import gauc
from monitoring.svg import ticks
from trainers.replay.figures import figures
from trainers.replay.report import write_report
from trainers.replay.results import Outcome, Predictions, Spent
from trainers.replay.settings import ReplayConfig
from trainers.replay.tables import rows

N, START, END = 2_000, 1_000, 101_000
RNG = np.random.default_rng(0)
TRUTH = RNG.random(N)
BASE = {
    "impression_id": np.arange(N),
    "event_time": np.linspace(START, END, N).astype(np.int64),
    "user": RNG.integers(0, 40, N),
    "click": (RNG.random(N) < TRUTH).astype(np.int8),
}
CONFIG = ReplayConfig(windows=5, warmup_share=0.25, resamples=200)
NAMES = ("ads-only", "better <b>")


def outcome(noise: float) -> Outcome:
    p = np.clip(TRUTH + RNG.normal(0, noise, N), 0.01, 0.99).astype(np.float32)
    retained = np.array([[0.6, np.nan], [0.5, 0.7]])
    return Outcome(Predictions(**BASE, probability=p), retained, {"actr": Spent(N, 1.5)})


OUTCOMES = {NAMES[0]: outcome(1.0), NAMES[1]: outcome(0.2)}


@pytest.fixture(scope="module")
def found():
    return figures(OUTCOMES, TRUTH, CONFIG, START, END)


def test_lines_are_over_what_comes_after_the_warm_up(found):
    late = BASE["event_time"] >= START + 0.25 * (END - START)
    assert found.impressions == late.sum()
    for line in found.lines:
        p = OUTCOMES[line.name].predictions.probability
        expected = gauc(BASE["user"][late], BASE["click"][late], p[late])
        assert (line.gauc, line.gauc_unweighted) == (expected.weighted, expected.unweighted)
    assert found.ceiling == gauc(BASE["user"][late], BASE["click"][late], TRUTH[late]).weighted


def test_the_gap_is_from_ads_only_to_the_ceiling(found):
    floor, better = (line.gauc for line in found.lines)
    assert found.lines[0].gap_closed == 0
    assert found.lines[1].gap_closed == pytest.approx((better - floor) / (found.ceiling - floor))
    alone = figures({NAMES[1]: OUTCOMES[NAMES[1]]}, TRUTH, CONFIG, START, END)
    assert math.isnan(alone.lines[0].gap_closed) and alone.pairs == {}


def test_windows_cover_the_whole_log(found):
    assert len(found.times_W) == 5 and found.times_W == sorted(found.times_W)
    first = BASE["event_time"] < START + (END + 1 - START) / 5
    p = OUTCOMES[NAMES[0]].predictions.probability
    expected = gauc(BASE["user"][first], BASE["click"][first], p[first]).weighted
    assert found.curves_VW[NAMES[0]][0] == expected


def test_calibration_is_in_tenths(found):
    for bins in found.calibration.values():
        assert sum(b.impressions for b in bins) == found.impressions
        # Equal predictions share a bin, and many of these are clipped to the same.
        assert 1 < len(bins) <= 10 and all(b.impressions for b in bins)
        assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)


def test_the_report_is_one_file_with_pictures_and_its_table_as_data(found, tmp_path):
    path = write_report(found, {"log": "here & there"}, dict.fromkeys(NAMES, "x"), tmp_path)
    text = path.read_text()
    assert "here &amp; there" in text and "better &lt;b&gt;" in text and "better <b>" not in text
    assert text.count("<svg") == 3 + len(NAMES) and "nan" not in text.lower()
    assert not re.search(r"(src|href)=|url\(|@import|https?:", text)
    table = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [float(row["gauc"]) for row in table] == [row["gauc"] for row in rows(found)]
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["retained"][NAMES[0]] == [[0.6, None], [0.5, 0.7]]
    assert data["pairs"][0]["difference"] == found.pairs[NAMES].difference
    assert data["variants"][0]["bwt"] == pytest.approx(-0.1)


def test_without_the_truth_there_is_no_ceiling_and_no_gap(tmp_path):
    found = figures(OUTCOMES, None, CONFIG, START, END)
    assert math.isnan(found.ceiling) and all(math.isnan(x.gap_closed) for x in found.lines)
    text = write_report(found, {}, {}, tmp_path).read_text()
    assert "true probabilities" in text and "nan" not in text.lower()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.61, 0.64), (3.0, 3.0), (-0.2, 17.0)])
def test_ticks_are_few_and_within(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 8 and all(low <= tick <= high + 1e-9 for tick in found)
