"""What a version says that it knows of past periods: on the wire, in the monitor and for people."""

import json
import math
import time
from types import SimpleNamespace

import pytest
from monitor_support import BEGIN, SCHEMA
from prometheus_client import CollectorRegistry

from config import Config
from monitoring.ledger import Ledger
from monitoring.monitor_checkpoint import write_state
from monitoring.monitor_page import page
from monitoring.monitor_process import state_dir
from monitoring.monitor_report import report_lines
from monitoring.monitor_settings import MonitorConfig
from monitoring.monitor_telemetry import MonitorTelemetry
from monitoring.monitor_told import Told
from monitoring.recalled import Recalled

CONFIG = MonitorConfig(windows_seconds=(60, 300))
KNOWN = Recalled(backward_transfer=-0.0123, forgetting=0.02, gauc=(0.7, 0.65, 0.6))
NEW = Recalled(math.nan, math.nan, (0.7,))


def announce(ledger, version, recalled=None, **more):
    value = {"version": version} | ({} if recalled is None else {"recall": recalled.plain()})
    value = json.dumps(value | more).encode()
    record = SimpleNamespace(key=b"actr", value=value, headers=(), timestamp=BEGIN)
    ledger.announcements("m", "actr", 0, [record], version)


def ledger_of(*announced):
    ledger = Ledger(CONFIG, ("actr", "cpm"), SCHEMA)
    for version, recalled in announced:
        announce(ledger, version, recalled)
    return ledger


def recalled_of(ledger):
    return ledger.told()[0].recalled


def scraped(ledger):
    registry = CollectorRegistry()
    MonitorTelemetry(registry).tell(Told(time.time(), tuple(ledger.told())))
    return {
        (sample.name.removeprefix("ecdctr_monitor_"), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.endswith(("transfer_ratio", "forgetting_ratio", "recalled_gauc_ratio"))
    }


@pytest.mark.parametrize("known", [KNOWN, NEW, Recalled(math.nan, math.nan, ())])
def test_what_is_announced_is_what_was_known(known):
    assert repr(Recalled.of(json.loads(json.dumps(known.plain(), allow_nan=False)))) == repr(known)


def test_the_last_version_is_told():
    assert recalled_of(ledger_of()) is None
    assert recalled_of(ledger_of((5, NEW), (9, KNOWN))) == KNOWN
    assert recalled_of(ledger_of((9, KNOWN), (5, NEW))) == KNOWN, "an older one, said again"
    assert recalled_of(ledger_of((5, NEW), (5, KNOWN))) == KNOWN, "said again at a restart"
    assert recalled_of(ledger_of((5, KNOWN), (9, None))) is None, "not measured any more"


@pytest.mark.parametrize(
    "recall",
    [
        7, [], {}, {"gauc": 1}, {"gauc": [], "forgetting": 0},
        {"gauc": [1.5], "forgetting": 0, "backward_transfer": 0},
        {"gauc": [], "forgetting": "0", "backward_transfer": 0},
        {"gauc": [], "forgetting": 2, "backward_transfer": 0},
        {"gauc": [], "forgetting": True, "backward_transfer": 0},
        {"gauc": [], "forgetting": math.nan, "backward_transfer": 0},
        {"gauc": [0.5] * 65, "forgetting": 0, "backward_transfer": 0},
    ],
)  # fmt: skip
def test_what_is_no_such_figure_is_counted_and_its_version_published_all_the_same(recall):
    ledger = ledger_of((5, KNOWN))
    announce(ledger, 9, recall=recall)
    assert ledger.unreadable["m"] == 1
    assert recalled_of(ledger) is None and ledger.told()[0].published_version == 9


def test_prometheus_is_told_by_level_and_age():
    assert scraped(ledger_of((5, KNOWN))) == {
        ("backward_transfer_ratio", "actr"): -0.0123,
        ("forgetting_ratio", "actr"): 0.02,
        ("recalled_gauc_ratio", "actr", "1"): 0.7,
        ("recalled_gauc_ratio", "actr", "2"): 0.65,
        ("recalled_gauc_ratio", "actr", "3"): 0.6,
    }
    assert scraped(ledger_of((5, NEW))) == {("recalled_gauc_ratio", "actr", "1"): 0.7}
    assert scraped(ledger_of((5, None))) == {}


def test_a_restart_goes_on_telling_it_and_an_older_checkpoint_has_nothing_to_tell():
    for known in (KNOWN, None):
        facts, arrays = ledger_of((5, known)).state()
        facts = json.loads(json.dumps(facts))
        again = ledger_of()
        again.restore(facts, arrays)
        assert recalled_of(again) == known
        del facts["levels"]["actr"]["recalled"]
        older = ledger_of()
        older.restore(facts, arrays)
        assert recalled_of(older) is None


def test_the_page_and_the_report_say_it_where_it_is_measured(tmp_path):
    told = Told(time.time(), tuple(ledger_of((5, KNOWN)).told()))
    text = page(told)
    row = "<td>actr</td><td>5</td><td>-0.012</td><td>+0.020</td><td>0.700</td><td>0.650</td>"
    assert "still knows of past periods" in text and row in text
    assert (
        "nan" not in page(Told(time.time(), tuple(ledger_of((5, NEW)).told()))).split("</style>")[1]
    )
    silent = page(Told(time.time(), tuple(ledger_of((5, None)).told())))
    assert "still knows of past periods" not in silent
    for known, lines in ((KNOWN, 1), (None, 0)):
        write_state(state_dir(tmp_path), *ledger_of((5, known)).state())
        found = [line for line in report_lines(Config(run_dir=tmp_path)) if "forgetting" in line]
        assert len(found) == lines
    write_state(state_dir(tmp_path), *ledger_of((5, KNOWN)).state())
    assert report_lines(Config(run_dir=tmp_path))[1] == (
        "actr: backward transfer -0.012, forgetting +0.020, over 2 periods"
    )
