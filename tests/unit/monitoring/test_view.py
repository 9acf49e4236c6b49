import dataclasses
import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from monitoring import chart, text
from monitoring.hand_downs import Effect
from monitoring.series import Point
from monitoring.snapshot import LevelState, ProcessState, Snapshot, TableState
from monitoring.view import View, line, render

DAY = 86_400_000
START = 1_735_689_600_000  # 2025-01-01


def points(n=40, ceiling=0.8):
    return tuple(
        Point(START + DAY * (i + 1), 0.72 - 0.22 * math.exp(-i / 9), ceiling, 13_000)
        for i in range(n)
    )


FULL = Snapshot(
    at=1_800_000_000.0,
    processes=(
        ProcessState("kafka", "running", 125),
        ProcessState("simulate", "running", 100),
        ProcessState("train-actr-0", "stalled", 90, "no progress for 70 s"),
        ProcessState("train-actr-1", "dead"),
    ),
    levels=(
        LevelState(
            "actr",
            impressions=123_456,
            per_second=2_345,
            lag_records=12,
            lag_seconds=3.4 * 3600,
            event_time=START / 1000 + 40 * 86_400,
            loss=0.123,
            gauc=0.7,
            ceiling=math.nan,
            normalized_entropy=0.93,
            copc=1.02,
            ctr=0.031,
            model_version=12,
            checkpoint_age_seconds=3.2,
            tables=(TableState("user_id", 0.82), TableState("creative_id", 1, 12_345)),
        ),
    ),
    points=points(),
    produced={"impressions.natural": 1.2e6, "impressions.ad": 70_000},
    produced_per_second=12_000,
    dead_letters={"bad_click": 8, "truncated": 4, "late": 0},
    kafka="up",
)
EMPTY = Snapshot(at=1_800_000_000.0, levels=(LevelState("actr"),))


HANDED_DOWN = dataclasses.replace(
    FULL,
    levels=(
        dataclasses.replace(FULL.levels[0], history=0.93, history_age_seconds=2 * 86_400),
        LevelState("cpm", impressions=1e6, model_version=77, checkpoint_age_seconds=5),
    ),
    hand_downs=(
        Effect(START, 0.6, 0.7),
        Effect(START + DAY, 0.7, 0.702),
        Effect(START + 2 * DAY, math.nan, math.nan),
    ),
)


class Pipe(io.StringIO):
    def __init__(self, encoding="utf-8"):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self):
        return self._encoding


def printed(snapshot, width=80, height=24, encoding="utf-8", **options):
    pipe = Pipe(encoding)
    Console(file=pipe, width=width, height=height, **options).print(View(snapshot))
    return pipe.getvalue()


def test_a_frame_shows_everything_at_80_columns():
    frame = printed(FULL)
    for words in (
        "Kafka up",
        "event 2025-02-10 00:00",
        "produced 1.27 M (12,000/s)",
        "actr     123,456   2,345     12     3 h  0.123  0.930  1.020  3.1%  v12 3.2 s",
        "actr 0.717",
        "ceiling 0.800",
        "floor 0.5",
        "● kafka         running 2 min",
        "● train-actr-0  stalled",
        "✗ train-actr-1  dead",
        "82% 0",
        "100% 12k",
        "2025-01-02",
        "2025-02-10",
        "dead letters 12  bad_click 8 · truncated 4",
    ):
        assert words in frame


def test_what_was_handed_down_and_what_it_did():
    frame = printed(HANDED_DOWN, width=120)
    assert "actr history 93%, 2 d old" in frame
    assert (
        "hand-downs seen 3, GAUC 0.700 -> 0.702 around the last one, +0.051 in the mean of 2"
        in frame
    )
    assert "v77 5.0 s" in frame
    assert "hand-downs seen 3, GAUC 0.700 -> 0.702" in line(HANDED_DOWN)


@pytest.mark.parametrize(
    "snapshot", [FULL, EMPTY, HANDED_DOWN, dataclasses.replace(FULL, message="bye " * 40)]
)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60), (66, 24)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_fits_the_terminal(snapshot, width, height, ascii_only):
    lines = render(snapshot, width, height, ascii_only)
    assert len(lines) < height
    assert max(made.cell_len for made in lines) <= width


def test_tables_and_curve_are_those_of_the_level_that_they_name():
    other = LevelState("acpm", gauc=0.9, tables=(TableState("other_id", 0.5),))
    frame = printed(dataclasses.replace(FULL, levels=(other, *FULL.levels)))
    assert "actr rows in use, evicted" in frame and "other_id" not in frame
    without = dataclasses.replace(FULL, points=(), levels=(other, *FULL.levels))
    assert "actr 0.700" in printed(without) and "gauc 0.700" in line(without)


@pytest.mark.parametrize("width", [80, 120])
def test_long_lines_are_folded_not_cut(width):
    address = "http://127.0.0.1:43210/"
    reasons = {f"reason-{i}": 7 for i in range(14)}
    said = f"Kill any process and watch, Ctrl-C stops everything. Page: {address}"
    full = dataclasses.replace(HANDED_DOWN, message=said, dead_letters=reasons)
    frame = printed(full, width=width, height=40)
    words = " ".join(frame.split())
    assert address in words and "reason-13 7" in words and "in the mean of 2" in words
    assert "train-actr-0 no progress for 70 s" in words and "…" not in words
    assert max(map(len, frame.splitlines())) <= width


def test_a_narrow_terminal_gets_all_of_it_below_each_other():
    frame = printed(FULL, width=50, height=50)
    assert max(map(len, frame.splitlines())) <= 50
    assert "processes" in frame
    assert "creative_id" in frame


def test_a_pipe_gets_no_control_codes_and_a_terminal_gets_colours():
    frame = printed(FULL)
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", frame) is None
    assert "\x1b[" in printed(FULL, force_terminal=True, color_system="standard")


def test_without_unicode_the_frame_is_ascii():
    frame = printed(FULL, encoding="ascii")
    assert frame.isascii()
    assert "* actr 0.717" in frame
    assert printed(EMPTY, encoding="ascii").isascii()


def test_what_is_not_known_is_a_dash():
    frame = printed(EMPTY)
    assert "nan" not in frame.lower()
    assert "actr –" in frame
    assert "ceiling –" in frame
    assert "no predictions yet" in frame
    assert "nan" not in line(EMPTY).lower()
    assert "gauc – ceiling – floor 0.5" in line(EMPTY)


def test_a_market_whose_truth_is_missing_has_no_ceiling_and_says_so():
    frame = printed(dataclasses.replace(FULL, points=points(ceiling=math.nan)))
    assert "ceiling –" in frame
    assert "ceiling not known" in frame


def test_one_line_for_a_pipe():
    made = line(FULL)
    assert "\n" not in made
    assert "\x1b" not in made
    for words in (
        "running 2/4",
        "kafka up",
        "learnt 123,456 (2,345/s)",
        "lag 12 records 3 h",
        "gauc 0.717 ceiling 0.800 floor 0.5",
        "user_id 82%",
        "dead letters 12",
        "train-actr-1: dead",
    ):
        assert words in made


def test_the_curve_rises_where_the_values_do():
    canvas = chart.draw([0.5, 0.6, 0.7, 0.8], [], 0.5, 20, 10)
    columns = np.array([[kind == "model" for kind in row] for row in canvas.kinds])
    heights = [np.flatnonzero(columns[:, x]).mean() for x in range(20)]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] - heights[-1] > 5


def test_floor_and_ceiling_lie_where_their_ticks_are():
    canvas = chart.draw([0.6, 0.6], [0.8, 0.8], 0.5, 10, 12, ascii_only=True)
    rows = {canvas.tick(row): row for row in range(12) if canvas.tick(row) is not None}
    assert canvas.text[rows[0.5]] == "-" * 10
    assert canvas.text[rows[0.6]] == "*" * 10
    assert canvas.text[rows[0.8]] == "." * 10


def test_an_undefined_point_leaves_a_gap():
    canvas = chart.draw([0.6, math.nan, math.nan, 0.6], [], 0.5, 30, 8)
    drawn = [any(row[x] == "model" for row in canvas.kinds) for x in range(30)]
    assert drawn[0]
    assert drawn[-1]
    assert not any(drawn[5:25])


@pytest.mark.parametrize("values", [[], [0.7], [math.nan], [0.0, 1.0], [0.5] * 500])
def test_any_series_can_be_drawn(values):
    canvas = chart.draw(values, values, 0.5, 33, 7)
    assert [len(row) for row in canvas.text] == [33] * 7


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (119, "119 s"),
        (180, "3 min"),
        (18_000, "5 h"),
        (9e5, "10 d"),
    ],
)
def test_ages_are_told_in_fitting_units(value, words):
    assert text.seconds(value) == words


def test_counts_are_short():
    assert text.count(12_345) == "12,345"
    assert text.count(1_234_567) == "1.23 M"
    assert [text.short(v) for v in (950, 12_345, 3e6, math.nan)] == ["950", "12k", "3M", "–"]
