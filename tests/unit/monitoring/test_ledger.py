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
from streaming.predictions import (
    Predicted,
    decode_predictions,
    encode_predictions,
    encode_rows,
    prediction_rows,
)

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


def test_a_record_of_several_batches_is_published_with_what_has_learnt_the_last_of_them():
    ledger = ledger_of()
    predicted = [
        Predicted(one.batch.rows, one.batch.source, one.probability_N, number)
        for number, one in ((number, made(number)) for number in (4, 5, 6))
    ]
    rows = prediction_rows(predicted, SCHEMA)
    for partition, value, headers in encode_rows(rows, "log", level="actr", appended_at=BEGIN):
        ledger.predictions("p", "actr", partition, [record(value, headers)], 1)
    for version, published in ((6, 0), (7, 4)):
        say = record(json.dumps({"version": version}).encode(), key=b"actr")
        ledger.announcements("m", "actr", 0, [say], version)
        assert ledger.told()[0].published.count == published


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


@pytest.mark.parametrize("value", [b'{"version": 1e400}', b'{"version": "7"}', b'{"version": -5}',
                                   b'{"version": true}', b'{"version": 9223372036854775808}',
                                   b"[" * 100_000])  # fmt: skip
def test_a_version_that_is_no_count_of_batches_is_counted(value):
    ledger = ledger_of()
    ledger.announcements("m", "actr", 0, [record(value, key=b"actr")], 1)
    assert ledger.unreadable["m"] == 1 and ledger.told()[0].published_version is None
    restarted(ledger)


def test_whatever_is_wrong_with_a_record_its_neighbours_count_and_none_is_taken_for_a_repeat():
    rng = np.random.default_rng(0)
    ledger, junk = ledger_of(), 0
    for number in range(40):
        for partition, good in predicted(number):
            broken = bytearray(good.value)
            broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
            cut = good.value[: int(rng.integers(len(good.value) - 8))]  # its end is optional
            bad = [record(bytes(broken), good.headers), record(cut, good.headers)]
            ledger.predictions("p", "actr", partition, [bad[1], good], number + 1)
            junk += 1
            restarted(ledger).predictions("p", "actr", partition, [bad[0]], number + 2)
    (actr, _) = ledger.told()
    assert actr.predictions == 4_000 and actr.repeated == 0
    assert ledger.unreadable["p"] == junk


def test_a_refused_record_does_not_move_what_counts_as_seen():
    ledger = ledger_of()
    for partition, good in predicted(0):
        rows = decode_predictions(good.value)
        names = rows.schema.names
        for name, value in (
            ("source_offset", 2**60),
            ("probability", np.nan),
            ("event_time", 10**16),
        ):
            column = pa.array(np.full(len(rows), value), rows.schema.field(name).type)
            wrong = rows.set_column(names.index(name), rows.schema.field(name), column)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, wrong.schema) as writer:
                writer.write_batch(wrong)
            bad = record(sink.getvalue().to_pybytes(), good.headers)
            ledger.predictions("p", "actr", partition, [bad], 1)
        ledger.predictions("p", "actr", partition, [good], 2)
    (actr, _) = ledger.told()
    assert (actr.predictions, actr.repeated, ledger.unreadable["p"]) == (100, 0, 12)


@pytest.mark.parametrize("name", ["source-topic", "source-partition", "appended-at", "last-row"])
@pytest.mark.parametrize("value", [None, b"", b"9" * 4_000, b"x"])
def test_headers_that_say_nothing_are_counted(name, value):
    ledger = ledger_of()
    for partition, good in predicted(0):
        headers = [(n, value if n == name else v) for n, v in good.headers]
        ledger.predictions("p", "actr", partition, [record(good.value, headers)], 1)
    told = ledger.told()[0]
    read = 100 if name == "source-topic" and value is not None else 0
    read = 100 if name == "appended-at" and value is None else read
    assert told.predictions == read and ledger.unreadable["p"] == (0 if read else 4)


def test_versions_announced_far_ahead_of_the_predictions_read_retire_nothing():
    ledger = ledger_of()
    for version in range(10, 400, 10):
        say = record(json.dumps({"version": version}).encode(), key=b"actr")
        ledger.announcements("m", "actr", 0, [say], 1)
    for number in range(25):
        for partition, found in predicted(number):
            ledger.predictions("p", "actr", partition, [found], number + 1)
    generations = ledger.told()[0].quality.generations
    assert [g.version for g in generations] == [0, 10, 20]
    assert sum(g.metrics.impressions for g in generations) == 2_500
    assert restarted(ledger).told()[0].quality.generations == generations


def test_an_empty_arrow_record_is_no_prediction():
    ledger = ledger_of()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", pa.int64())])):
        pass
    ledger.predictions("p", "actr", 0, [record(sink.getvalue().to_pybytes())], 1)
    assert ledger.unreadable["p"] == 1
