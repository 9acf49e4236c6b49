"""*Drift and forgetting*: did the world or the input move, and is the old still known?"""

from __future__ import annotations

from typing import Any

from monitoring.dashboards.parts import (
    GREEN,
    ORANGE,
    RED,
    Look,
    Query,
    answer,
    bars,
    level_variable,
    lines,
    screen,
)

_PSI = ((None, GREEN), (0.1, ORANGE), (0.25, RED))
_LEVEL = '{level="$level"}'
_DISTANCE = ((None, GREEN), (0.1, ORANGE), (0.3, RED))


def build() -> Any:
    made = screen(
        "ecdctr-drift",
        "Drift and forgetting",
        "Detectors' alarms, distances from the reference, and what versions still know.",
        "24h",
        [*_answers(), *_distances(), *_detectors(), *_memory()],
    )
    return made.with_variable(level_variable())


def _answers() -> list[Any]:
    return [
        answer(
            "Drift alarms in the last day",
            Query("sum(increase(ecdctr_drift_alarms_total[1d]))", instant=True),
            Look("none", decimals=0, steps=((None, GREEN), (0.5, ORANGE), (10, RED))),
            "Of all detectors that are on. Alert: DriftAlarm.",
        ),
        answer(
            "Newest alarm, by event time",
            Query(
                "1000 * topk(1, ecdctr_drift_alarm_event_time_seconds or vector(0))",
                "{{domain}} {{signal}} {{detector}}",
                True,
            ),
            Look("dateTimeAsIso", steps=((None, "blue"),), zero="none yet"),
            "What it was about, and the event time at which it was raised.",
            named=True,
        ),
        answer(
            "Feature that has moved most",
            Query("topk(1, ecdctr_drift_psi_ratio)", "{{domain}} {{feature}}", True),
            Look("none", decimals=3, steps=_PSI),
            "Population stability index against the reference; above 0.25 it is another "
            "population.",
            named=True,
        ),
        answer(
            "Ids never seen before",
            Query("topk(1, ecdctr_drift_unseen_ids_ratio)", "{{domain}} {{feature}}", True),
            Look("percentunit", decimals=1, steps=((None, GREEN), (0.1, ORANGE), (0.3, RED))),
            "Greatest share over the features with ids.",
            named=True,
        ),
    ]


def _distances() -> list[Any]:
    return [
        bars(
            "Drifted features: PSI of now",
            Query("topk(12, ecdctr_drift_psi_ratio)", "{{domain}} {{feature}}", True),
            Look("none", decimals=3, steps=_PSI, low=0),
            "The twelve that have moved most against the reference. FeatureDrift watches those "
            "that do not turn over by nature; new items and creatives always do.",
        ),
        lines(
            "Jensen-Shannon distance from the reference",
            [Query("topk(6, ecdctr_drift_js_ratio)", "{{domain}} {{feature}}")],
            Look("none", decimals=3, steps=_DISTANCE, low=0),
            "The six greatest. 0: the same distribution; 1: nothing in common.",
        ),
        lines(
            "Distance between natural and ad",
            [Query("topk(6, ecdctr_drift_domain_js_ratio)", "{{feature}}")],
            Look("none", decimals=3, low=0),
            "Jensen-Shannon distance between the two domains: what a transfer has to bridge.",
        ),
    ]


def _detectors() -> list[Any]:
    return [
        lines(
            "Alarms by signal",
            [
                Query(
                    "sum by (domain, signal)"
                    " (increase(ecdctr_drift_alarms_total[$__rate_interval]))",
                    "{{domain}} {{signal}}",
                )
            ],
            Look("none", decimals=0, low=0),
            "All detectors together.",
            width=6,
        ),
        lines(
            "Detectors' statistics",
            [Query("ecdctr_drift_statistic", "{{domain}} {{signal}} {{detector}}")],
            Look("none", decimals=3),
            "What each watches; an alarm is a jump of it.",
            width=6,
        ),
        lines(
            "GAUC of each version, on its own predictions",
            [Query(f"ecdctr_monitor_generation_gauc_ratio{_LEVEL}", "version {{version}}")],
            Look("none", decimals=3),
            "Newer versions below older ones: what was known is lost, or the world got harder.",
            width=6,
        ),
        lines(
            "Early refreshes: decided, and obeyed",
            [
                Query(
                    "sum by (ask, decision)"
                    " (increase(ecdctr_drift_decisions_total[$__rate_interval]))",
                    "{{ask}} {{decision}}",
                ),
                Query(
                    "sum by (level, outcome)"
                    " (increase(ecdctr_early_requests_total[$__rate_interval]))",
                    "{{level}} {{outcome}}",
                ),
            ],
            Look("none", decimals=0, low=0),
            "What became of alarms that may ask for an early period or hand-down "
            "(drift.closes_loop), and what TPM and CPM made of requests.",
            width=6,
        ),
    ]


def _memory() -> list[Any]:
    return [
        lines(
            "Forgetting and backward transfer",
            [
                Query(f"ecdctr_monitor_forgetting_ratio{_LEVEL}", "forgetting"),
                Query(f"ecdctr_monitor_backward_transfer_ratio{_LEVEL}", "backward transfer"),
            ],
            Look("none", decimals=3, steps=((None, GREEN), (0.02, ORANGE), (0.05, RED))),
            "GAUC on held-back impressions of past periods: how far it fell from its best, and how "
            "it changed since each period's end. Nothing: forgetting.share is 0, or fewer than two "
            "periods are over.",
            width=6,
        ),
        lines(
            "GAUC on past periods",
            [Query(f"ecdctr_monitor_recalled_gauc_ratio{_LEVEL}", "age {{age}}")],
            Look("none", decimals=3),
            "Of the last version, on held-back impressions; age 1: the newest period that is over.",
            width=6,
        ),
        lines(
            "Historical embeddings: distance between periods",
            [Query("avg by (kind) (ecdctr_history_cosine_distance)", "{{kind}}")],
            Look("none", decimals=3, steps=_DISTANCE, low=0),
            "Mean cosine distance of a user's or item's newest vector from the one before.",
            width=6,
        ),
        lines(
            "Impressions with a history",
            [
                Query(
                    "avg by (level, kind) (ecdctr_impressions_with_history_ratio)",
                    "{{level}} {{kind}}",
                )
            ],
            Look("percentunit", steps=((None, RED), (0.5, ORANGE), (0.8, GREEN)), low=0, high=1),
            "Whose user or item was known in an earlier period: the memory against forgetting.",
            width=6,
        ),
    ]
