"""What Prometheus and people are told: metrics, page and the question of calibration."""

import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from monitor_support import BEGIN, SCHEMA, made
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.calibrated import by_calibration, sentence
from monitoring.ledger import Ledger
from monitoring.level_quality import Generation, measured
from monitoring.monitor_page import page
from monitoring.monitor_settings import MonitorConfig
from monitoring.monitor_telemetry import MonitorTelemetry
from monitoring.monitor_told import Alarm, Told
from monitoring.sampled_rows import no_rows
from streaming.predictions import encode_predictions

LEVELS = ("tpm", "cpm", "actr")
CONFIG = MonitorConfig(windows_seconds=(60, 300), generations=3)


def announcement(level, version, at=BEGIN):
    value = json.dumps({"version": version}).encode()
    return SimpleNamespace(key=level.encode(), value=value, headers=[], timestamp=at)


def records(number, level):
    one = made(number)
    for partition, value, headers in encode_predictions(
        one.batch, one.probability_N, number, "log", schema=SCHEMA, level=level
    ):
        yield (
            partition,
            SimpleNamespace(key=None, value=value, headers=headers, timestamp=BEGIN + 2_000),
        )


def filled(batches=100, versions=(10, 20, 40)):
    ledger = Ledger(CONFIG, LEVELS, SCHEMA)
    for number in range(batches):
        for partition, record in records(number, "actr"):
            ledger.predictions("predictions.actr", "actr", partition, [record], number + 1)
    for version in versions:
        ledger.announcements("models.actr", "actr", 0, [announcement("actr", version)], 1)
    ledger.levels["actr"].quality.advance()
    return ledger


def told_of(ledger, **more):
    lag = {"predictions.actr": 0.0, "impressions.ad": math.nan}
    return Told(at=BEGIN / 1_000, levels=tuple(ledger.told()), lag=lag, **more)


def scraped(told):
    registry = CollectorRegistry()
    telemetry = MonitorTelemetry(registry)
    telemetry.tell(told)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {family.name: family for family in families}


def values(families, name, **labels):
    samples = families[f"ecdctr_monitor_{name}"].samples
    return [s.value for s in samples if labels.items() <= s.labels.items()]


def test_every_metric_of_the_contract_with_its_type():
    families = scraped(told_of(filled()))
    gauges = {
        f"ecdctr_monitor_{name}"
        for name in (
            "gauc_ratio", "gauc_unweighted_ratio", "auc_ratio", "log_loss_nats",
            "normalized_entropy_ratio", "copc_ratio", "ctr_ratio", "window_impressions",
            "gauc_groups", "decile_copc_ratio", "generation_gauc_ratio", "generation_copc_ratio",
            "generation_normalized_entropy_ratio", "generation_log_loss_nats",
            "generation_impressions", "window_end_seconds", "event_time_seconds", "gauc_defined",
            "user_sample_ratio", "lag_records", "published_version",
            "published_timestamp_seconds", "checkpoint_timestamp_seconds",
            "backward_transfer_ratio", "forgetting_ratio", "recalled_gauc_ratio",
        )
    }  # fmt: skip
    counters = {
        f"ecdctr_monitor_{name}"
        for name in (
            "predictions", "repeated_predictions", "late_predictions", "unreadable_records",
            "lost_records", "checkpoint_failures",
        )
    }  # fmt: skip
    histograms = {
        f"ecdctr_monitor_{name}"
        for name in ("learnt_seconds", "published_seconds", "checkpoint_seconds")
    }
    own = {
        n: f
        for n, f in families.items()
        if n.startswith("ecdctr_monitor_") and not n.endswith("_created")
    }
    assert {n for n, f in own.items() if f.type == "gauge"} == gauges
    assert {n for n, f in own.items() if f.type == "counter"} == counters
    assert {n for n, f in own.items() if f.type == "histogram"} == histograms
    assert all(f.documentation.endswith(".") for f in own.values())
    assert families["ecdctr_build_info"].samples[0].labels["process"] == "monitor"


def test_only_the_last_generations_have_series_and_what_is_undefined_has_none():
    families = scraped(told_of(filled()))
    samples = families["ecdctr_monitor_generation_impressions"].samples
    versions = {s.labels["version"] for s in samples if s.labels["level"] == "actr"}
    assert versions == {"10", "20", "40"}
    assert values(families, "copc_ratio", level="cpm") == []
    assert values(families, "published_version", level="cpm") == []
    assert values(families, "lag_records", topic="impressions.ad") == []
    assert values(families, "lag_records", topic="predictions.actr") == [0]
    assert values(families, "learnt_seconds", level="actr", le="3.0")[0] == 400
    assert values(families, "gauc_defined", level="actr", window="5m") == [1]
    assert sum(len(f.samples) for f in families.values()) < 350


def test_a_window_that_ranks_nobody_says_so():
    ledger = filled(batches=100)
    told = told_of(ledger)
    (actr,) = (one for one in told.levels if one.level == "actr")
    point = actr.quality.complete[60_000]
    empty = type(point)(point.end, measured(no_rows()))
    actr.quality.complete[60_000] = empty
    families = scraped(told)
    assert values(families, "gauc_defined", level="actr", window="1m") == [0]
    assert values(families, "gauc_ratio", level="actr", window="1m") == []
    assert values(families, "window_impressions", level="actr", window="1m") == [0]


# -- calibration --------------------------------------------------------------------------


def generation(version, copc, impressions=10_000):
    """Clicks of 10 % and predictions that are off by ``copc``."""
    click = np.zeros(impressions, np.int8)
    click[::10] = 1
    rows = no_rows()
    rows = type(rows)(
        np.full(impressions, 1_000 * version), np.arange(impressions) % 50, click,
        np.full(impressions, 0.1 / copc, np.float32), np.full(impressions, version),
    )  # fmt: skip
    return Generation(version, 5_000 * version, 1_000 * version, 2_000 * version, measured(rows))


def test_the_worst_of_all_levels_is_the_farthest_off_by_more_than_chance():
    found = by_calibration(
        {
            "actr": [generation(1, 1.2), generation(2, 0.5, impressions=990), generation(3, 0.7)],
            "cpm": [generation(0, 0.4), generation(4, 1.25)],
            "tpm": [],
        }
    )
    assert [(c.level, c.generation.version) for c in found] == [
        ("cpm", 0), ("actr", 2), ("actr", 3), ("cpm", 4), ("actr", 1),
    ]  # fmt: skip
    assert [c.generation.version for c in found if c.worst] == [3]
    assert sentence(found) == (
        "Worst calibrated: version 3 of actr, since 1970-01-01 00:00 (event time): it promises "
        "too many clicks (COPC 0.700, -30.0%). Left out: 1 with fewer than 1,000 predictions; "
        "version 0, before anything was published."
    )


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ([generation(4, 1.01)], "No published version's calibration is off by more than chance."),
        ([generation(4, 0.7)], "it promises too many clicks (COPC 0.700, -30.0%)."),
        ([generation(4, 1.5)], "it promises too few clicks (COPC 1.500, +50.0%)."),
        ([generation(4, 0.9, 1_000)], "off by more than chance."),  # of 111 clicks expected
        ([generation(4, 0.3, 990)], "Left out: 1 with fewer than 1,000 predictions."),
        ([generation(0, 0.3)], "Left out: version 0, before anything was published."),
        ([], "No published version has predicted enough yet to be judged."),
    ],
)
def test_the_answer_ends_with_what_is_known(known, words):
    assert sentence(by_calibration({"cpm": known})).endswith(words)


def test_a_generation_without_predictions_or_without_clicks_does_not_disturb():
    empty = Generation(7, 0, 0, 0, measured(no_rows()))
    rows = no_rows()
    silent = type(rows)(
        np.arange(900), np.arange(900), np.zeros(900, np.int8),
        np.full(900, 0.5, np.float32), np.zeros(900, np.int64),
    )  # fmt: skip
    unclicked = Generation(8, 0, 0, 899, measured(silent))
    found = by_calibration({"actr": [empty, unclicked, generation(9, 0.99)]})
    assert [c.generation.version for c in found] == [8, 9]
    assert all("nan" not in cell for c in found for cell in c.cells)


# -- the page -----------------------------------------------------------------------------


class Balanced(HTMLParser):
    VOID = ("meta", "line", "br")

    def __init__(self):
        super().__init__()
        self.open, self.rows = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.rows[-1].append(data)


def parsed(text):
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser.rows


def test_the_page_needs_nothing_else_and_answers_the_question():
    told = told_of(filled(), alarms=(Alarm(BEGIN, "CTR <moved>"),), problem="Kafka & co are away")
    text = page(told)
    rows = parsed(text)
    assert not re.search(r"<script|url\(|@import|https?:|src=", text)
    assert "nan" not in re.sub(r"<style>.*</style>", "", text, flags=re.S)
    assert "Worst calibrated: version" in text and text.count("<svg") == 3
    assert "Kafka &amp; co are away" in text and "CTR &lt;moved&gt;" in text
    (actr,) = (one for one in told.levels if one.level == "actr")
    metrics = actr.quality.complete[300_000].metrics
    (row,) = (r for r in rows if r[:2] == ["actr", "5m"])
    assert row[3] == f"{metrics.gauc:.3f}" and row[10] == f"{metrics.copc:.3f}"
    versions = [r[1] for r in rows if r[:1] == ["actr"] and len(r) == 11 and r[1].isdigit()]
    assert sorted(versions) == ["10", "20", "40"]


def test_a_page_that_has_grown_old_says_so():
    told = told_of(filled(7))
    assert "ago</span>" not in page(told, told.at + 20)
    assert '<span class="bad">61 s ago</span>' in page(told, told.at + 61)


@pytest.mark.parametrize(
    "told", [Told(), told_of(Ledger(CONFIG, LEVELS, SCHEMA)), told_of(filled(7))]
)
def test_the_page_before_there_is_much_to_tell(told):
    parsed(page(told))
