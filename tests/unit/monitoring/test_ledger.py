"""The monitor's whole state: what observers get, and that it goes on after a restart."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from log_support import SCHEMA as LOG_SCHEMA
from log_support import START_MS, impressions
from monitor_support import BEGIN, SCHEMA, Counting, made

from monitoring.ledger import Ledger
from monitoring.monitor_settings import MonitorConfig
from monitoring.watermark import NEVER, Watermark
from streaming.codec import encode
from streaming.predictions import encode_predictions

CONFIG = MonitorConfig(windows_seconds=(60, 300), generations=3)


def record(value, headers=(), key=None):
    return SimpleNamespace(value=value, headers=headers, key=key, timestamp=BEGIN + 2_000)


def predicted(number, level="actr"):
    one = made(number)
    return [
        (partition, record(value, headers))
        for partition, value, headers in encode_predictions(
            one.batch, one.probability_N, number, "log", schema=SCHEMA, level=level
        )
    ]


def ledger_of(schema=SCHEMA):
    return Ledger(CONFIG, ("actr", "cpm"), schema, [Counting()])


def restarted(ledger, schema=SCHEMA):
    facts, arrays = ledger.state()
    made_anew = ledger_of(schema)
    made_anew.restore(json.loads(json.dumps(facts)), arrays)
    return made_anew


def test_a_restart_between_any_two_records_changes_nothing():
    one, other = ledger_of(), ledger_of()
    for number in range(30):
        for partition, found in predicted(number):
            for ledger in (one, other):
                ledger.predictions("p", "actr", partition, [found] * (1 + number % 2), number + 1)
                ledger.advance({})
        if number % 10 == 9:
            say = record(json.dumps({"version": number}).encode(), key=b"actr")
            for ledger in (one, other):
                ledger.announcements("m", "actr", 0, [say], number)
        other = restarted(other)
    assert repr(one.told()) == repr(other.told()) and one.told()[0].repeated == 1_500
    assert one.positions == other.positions == {"p": dict.fromkeys(range(4), 30), "m": {0: 29}}
    assert other.observers["counting"].counts["actr"] == 3_000


def test_repeats_do_not_reach_observers_and_junk_is_counted():
    ledger = ledger_of()
    for _ in range(2):
        for partition, found in predicted(0):
            ledger.predictions("p", "actr", partition, [found, record(b"junk"), record(None)], 3)
    (actr, _) = ledger.told()
    assert ledger.observers["counting"].counts["actr"] == actr.predictions == 100
    assert actr.repeated == 100 and actr.learnt.count == 4
    assert ledger.unreadable["p"] == 2 * 2 * 4


def test_an_old_record_without_its_append_time_is_a_prediction_all_the_same():
    ledger = ledger_of()
    for partition, found in predicted(0):
        found.headers = [h for h in found.headers if h[0] != "appended-at"]
        ledger.predictions("p", "actr", partition, [found], 1)
    (actr, _) = ledger.told()
    assert actr.predictions == 100 and actr.learnt.count == 0


@pytest.mark.parametrize("value", [b"junk", b"[]", b"{}", b'{"version": null}'])
def test_what_is_no_announcement_is_counted(value):
    ledger = ledger_of()
    ledger.announcements("m", "actr", 0, [record(value, key=b"actr")], 1)
    assert ledger.unreadable["m"] == 1 and ledger.told()[0].published_version is None


def test_hand_downs_and_tombstones_on_the_models_topic_say_nothing():
    ledger = ledger_of()
    say = [record(b'{"version": 5}', key=b"cpm/1700"), record(None, key=b"cpm")]
    ledger.announcements("m", "cpm", 0, say, 2)
    assert not ledger.unreadable["m"] and ledger.told()[1].published_version is None


def test_observers_get_impressions_and_watermarks():
    ledger = ledger_of(LOG_SCHEMA)
    good = record(encode(impressions(range(20))))
    ledger.impressions("i", "ad", 0, [good, record(b"junk")], 2)
    ledger.impressions("i", "ad", 1, [record(encode(impressions(range(5))))], 1)
    ledger.advance({"ad": [1]})
    watching = ledger.observers["counting"]
    assert watching.counts["ad"] == 25 and ledger.unreadable["i"] == 1
    assert watching.watermarks == {
        "ad": START_MS + 40, "natural": NEVER, "actr": NEVER, "cpm": NEVER,
    }  # fmt: skip
    ledger = restarted(ledger, LOG_SCHEMA)
    ledger.advance({})
    assert ledger.observers["counting"].watermarks["ad"] == START_MS + 190
    assert ledger.observers["counting"].counts["ad"] == 25


def test_a_watermark_never_goes_back():
    time = Watermark()
    assert time.advance() == NEVER
    time.note(0, np.array([5, 9, 7]))
    assert (time.advance(), time.newest) == (9, 9)
    time.note(1, np.array([3]))
    assert time.advance(behind=[1]) == 9
    time = Watermark.from_state(json.loads(json.dumps(time.state())))
    time.note(0, np.array([20]))
    assert time.advance(behind=[1]) == 9
    assert time.advance(behind=[0, 2]) == 9
    assert time.advance() == 20


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5, np.inf])
def test_a_model_that_predicts_nonsense_does_not_end_the_monitor(bad):
    ledger, one = ledger_of(), made(0)
    one.probability_N[7] = bad
    for partition, value, headers in encode_predictions(
        one.batch, one.probability_N, 0, "log", schema=SCHEMA, level="actr"
    ):
        ledger.predictions("p", "actr", partition, [record(value, headers)], 1)
    assert ledger.unreadable["p"] == 1 and ledger.told()[0].predictions == 75


def test_an_empty_arrow_record_is_no_prediction():
    ledger = ledger_of()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", pa.int64())])):
        pass
    ledger.predictions("p", "actr", 0, [record(sink.getvalue().to_pybytes())], 1)
    assert ledger.unreadable["p"] == 1
