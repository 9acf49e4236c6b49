"""The pure part of the cadences' benchmark: what is compared, and its picture."""

import xml.etree.ElementTree as ElementTree

from benchmarks.cadence import HOURS, at_each
from config import Config
from settings import load
from trainers.replay.plan import VARIANTS, levels
from trainers.replay.svg import over_steps


def test_each_way_hands_down_alone_and_at_every_cadence():
    for way, expected in (("history", ("tpm", "actr")), ("deltas", ("cpm", "actr"))):
        applied = [variant.applied(Config()) for variant in at_each(way)]
        assert {levels(config) for config in applied} == {expected}
        hours = [
            config.history.period_hours if way == "history" else config.cpm.hand_down_hours
            for config in applied
        ]
        assert hours == list(HOURS.values())


def test_a_way_has_the_learning_rates_that_were_tuned_for_its_like():
    rates = ["replay.rates.full.table_learning_rate=0.07"]
    config = load(Config, None, {}, rates).config
    rate = VARIANTS["full"].applied(config).actr.optimizer.table_learning_rate
    assert rate == 0.07
    assert {v.applied(config).actr.optimizer.table_learning_rate for v in at_each("deltas")} == {
        rate
    }


def test_the_picture_is_whole_by_itself_and_leaves_out_what_is_unknown():
    picture = ElementTree.fromstring(
        over_steps(["month", "day"], {"a": [0.1, float("nan")], "b": [0.2, 0.3]}, "gap")
    )
    space = "{http://www.w3.org/2000/svg}"
    assert picture.tag == f"{space}svg"
    words = {text.text for text in picture.iter(f"{space}text")}
    assert {"month", "day", "a: gap", "b: gap"} <= words
    paths = [path.get("d") for path in picture.iter(f"{space}path")]
    assert [d.count("L") for d in paths] == [0, 1]
