"""*Model quality*: is the model as good as it was, and which version is badly calibrated?"""

from __future__ import annotations

from typing import Any

from monitoring.dashboards.parts import (
    GREEN,
    ORANGE,
    RED,
    Look,
    Query,
    answer,
    level_variable,
    lines,
    rows,
    screen,
)

_OF = '{level="$level"}'
_DAY = '{level="$level", window="1d"}'
_COPC_STEPS = ((None, RED), (0.8, ORANGE), (0.9, GREEN), (1.1, ORANGE), (1.25, RED))
_RATIO = Look("none", decimals=3)


def build() -> Any:
    made = screen(
        "ecdctr-quality",
        "Model quality",
        "Metrics of predictions made before learning, over windows of event time.",
        "24h",
        [*_answers(), *_curves()],
    )
    return made.with_variable(level_variable())


def _answers() -> list[Any]:
    calibration = f"ecdctr_monitor_generation_copc_ratio{_OF}"
    enough = f"ecdctr_monitor_generation_impressions{_OF} >= 1000"
    week = "level:ecdctr_monitor_gauc_ratio:last_week"
    now = f"avg by (level) (ecdctr_monitor_gauc_ratio{_DAY})"
    ever = f"avg by (level) (avg_over_time(ecdctr_monitor_gauc_ratio{_DAY}[6d]))"
    return [
        answer(
            "GAUC against its own last week",
            Query(f"{now} - on (level) ({week}{_OF} or {ever})"),
            Look("none", decimals=3, steps=((None, RED), (-0.02, ORANGE), (-0.01, GREEN))),
            "GAUC of the last day less its mean of the six days before it. Where Prometheus does "
            "not know so much yet, less its mean of what it knows. Alert: GaucFallen.",
        ),
        answer(
            "GAUC now",
            Query(now),
            Look("none", decimals=3, steps=((None, RED), (0.5, ORANGE), (0.55, GREEN))),
            "Of the last day, weighted by impressions. 0.5 is a coin toss. No value: undefined, "
            "no user has both a click and a non-click (alert GaucUndefined).",
            width=4,
        ),
        answer(
            "Worst-calibrated version: clicks over predicted clicks",
            Query(
                f"{calibration} and topk(1, abs(ln({calibration})) and {enough})",
                "version {{version}}",
                True,
            ),
            Look("none", decimals=2, steps=_COPC_STEPS),
            "Of the versions that are still kept and made 1,000 predictions. 1 is right; below, "
            "it promises too many clicks. Since when: the table beneath. Alert: CalibrationOff.",
            width=8,
            named=True,
        ),
        answer(
            "Share of users that the GAUC is over",
            Query(
                f'sum(ecdctr_monitor_gauc_groups{{level="$level", window="1d", state="used"}})'
                f" / sum(ecdctr_monitor_gauc_groups{_DAY})"
            ),
            Look("percentunit", steps=((None, RED), (0.01, ORANGE), (0.05, GREEN))),
            "Users of the last day with both a click and a non-click. Where few are left, the GAUC "
            "says little.",
        ),
    ]


def _curves() -> list[Any]:
    return [
        lines(
            "GAUC by window",
            [Query(f"ecdctr_monitor_gauc_ratio{_OF}", "{{window}}")],
            _RATIO,
            "Short windows are noisy: look at the long one first.",
            width=9,
            height=8,
        ),
        lines(
            "Clicks over predicted clicks, by window",
            [Query(f"ecdctr_monitor_copc_ratio{_OF}", "{{window}}")],
            Look("none", decimals=2, steps=_COPC_STEPS),
            "COPC; the alert fires outside of 0.8 to 1.25.",
            width=8,
            height=8,
        ),
        lines(
            "Normalized entropy by window",
            [Query(f"ecdctr_monitor_normalized_entropy_ratio{_OF}", "{{window}}")],
            Look("none", decimals=3, steps=((None, GREEN), (1, RED))),
            "Log loss over that of always predicting the click rate; above 1 that would be better.",
            width=7,
            height=8,
        ),
        _versions(),
        lines(
            "Clicks over predicted clicks, by decile of the score",
            [Query(f"ecdctr_monitor_decile_copc_ratio{_OF}", "{{decile}}")],
            Look("none", decimals=2, steps=_COPC_STEPS),
            "Over the longest window; 10 holds the highest scores.",
            width=8,
            height=8,
        ),
        lines(
            "Click rate by window",
            [Query(f"ecdctr_monitor_ctr_ratio{_OF}", "{{window}}")],
            Look("percentunit", decimals=2),
            "Clicks over impressions. A jump is in the world or in the labels, not in the model.",
            width=7,
            height=8,
        ),
    ]


def _versions() -> Any:
    def of(metric: str) -> Query:
        return Query(f"max by (version) (ecdctr_monitor_generation_{metric}{_OF})")

    seen = f"timestamp(ecdctr_monitor_generation_impressions{_OF})"
    columns = {
        "COPC": of("copc_ratio"),
        "GAUC": of("gauc_ratio"),
        "NE": of("normalized_entropy_ratio"),
        "Impressions": of("impressions"),
        "First seen": Query(
            f"1000 * min by (version) (min_over_time({seen}[$__range:$__interval]))"
        ),
    }
    help = "The newest versions over all their predictions; how long ago each was first seen."
    return rows(
        "Versions",
        columns,
        "version",
        Look("none", decimals=3, steps=_COPC_STEPS),
        help,
        width=9,
        height=8,
        plain={"Impressions": "short", "First seen": "dateTimeFromNow"},
    )
