"""*Pipeline health*: does everything run, keep up, and publish in time?"""

from __future__ import annotations

from typing import Any

from monitoring.dashboards.parts import GREEN, ORANGE, RED, Look, Query, answer, lines, screen

_AGE = ((None, GREEN), (900, ORANGE), (3600, RED))


def build() -> Any:
    return screen(
        "ecdctr-pipeline",
        "Pipeline health",
        "Processes, the two objectives, throughput, lag, checkpoints and histories.",
        "3h",
        [*_answers(), *_flow(), *_state(), *_machines()],
    )


def _answers() -> list[Any]:
    return [
        answer(
            "Fresh scores, of the last day",
            Query("avg_over_time(level:ecdctr_scores_fresh:bool[1d])", instant=True),
            Look("percentunit", decimals=2, steps=((None, RED), (0.98, ORANGE), (0.995, GREEN))),
            "Share of the time in which A-CTR answered and its model was younger than a quarter of "
            "an hour; objective 99.5 %. Alert: ScoresBudgetBurn.",
        ),
        answer(
            "Ads in a published model within 5 minutes, of the last hour",
            Query("1 - level:ecdctr_freshness_late:ratio_rate1h", instant=True),
            Look("percentunit", decimals=2, steps=((None, RED), (0.95, ORANGE), (0.99, GREEN))),
            "Of the records that were published; objective 99 %. Alert: FreshnessBudgetBurn.",
        ),
        answer(
            "Processes that do not answer",
            Query('count(up{job="ecdctr"} == 0) or vector(0)', instant=True),
            Look("none", decimals=0, steps=((None, GREEN), (1, RED))),
            "Alert: ProcessGone.",
            width=4,
        ),
        answer(
            "Alerts firing",
            Query('count(ALERTS{alertstate="firing"}) or vector(0)', instant=True),
            Look("none", decimals=0, steps=((None, GREEN), (1, ORANGE), (5, RED))),
            "Each has a section in the runbook (above).",
            width=4,
        ),
        answer(
            "Records that the monitor has not read",
            Query("sum(ecdctr_monitor_lag_records)"),
            Look("short", decimals=0, steps=((None, GREEN), (1_000, ORANGE), (10_000, RED))),
            "Where they are many, what is shown of quality and drift is old.",
            width=4,
        ),
    ]


def _flow() -> list[Any]:
    late = "histogram_quantile({}, sum by (level, le) (rate({}_bucket[$__rate_interval])))"
    freshness = "ecdctr_freshness_seconds"
    return [
        lines(
            "Impressions learnt",
            [
                Query(
                    "sum by (level) (rate(ecdctr_impressions_learnt_total[$__rate_interval]))",
                    "{{level}}",
                )
            ],
            Look("cps", low=0),
            "A second, by level.",
        ),
        lines(
            "Backlog",
            [
                Query("level:ecdctr_backlog_seconds:sum", "{{level}}"),
            ],
            Look("s", steps=((None, GREEN), (60, RED)), low=0),
            "What a level would take for what waits, at its pace of the last ten minutes. "
            "Alert: LagGrowing.",
        ),
        lines(
            "From append to a published model",
            [
                Query(late.format(0.5, freshness), "{{level}} median"),
                Query(late.format(0.99, freshness), "{{level}} 99 %"),
            ],
            Look("s", steps=((None, GREEN), (300, RED)), low=0),
            "Of the records published. A-CTR's objective: 99 % within 300 s.",
        ),
    ]


def _state() -> list[Any]:
    since = "time() - max by (level) (ecdctr_{}_timestamp_seconds)"
    return [
        lines(
            "Age of the newest model and checkpoint",
            [
                Query(since.format("monitor_published"), "{{level}} model"),
                Query(since.format("checkpoint"), "{{level}} checkpoint"),
            ],
            Look("s", steps=_AGE, low=0),
            "Alert ModelStale after an hour.",
        ),
        lines(
            "Writing a checkpoint",
            [
                Query(
                    "sum by (level) (rate(ecdctr_checkpoint_seconds_sum[$__rate_interval]))"
                    " / sum by (level) (rate(ecdctr_checkpoint_seconds_count[$__rate_interval]))",
                    "{{level}}",
                ),
            ],
            Look("s", low=0),
            "From its beginning to its rename, in the mean.",
        ),
        lines(
            "History: behind the newest period, age",
            [
                Query("max(ecdctr_history_staleness_seconds)", "refresher behind"),
                Query("max by (level) (ecdctr_history_age_seconds)", "{{level}} history's age"),
            ],
            Look("s", low=0),
            "Event time. The age grows to a period's length, then starts anew; behind should be 0. "
            "Alert: HistoryStale.",
        ),
    ]


def _machines() -> list[Any]:
    return [
        lines(
            "Dead letters, lost records, failed checkpoints",
            [
                Query(
                    "sum by (level, reason)"
                    " (increase(ecdctr_dead_letters_total[$__rate_interval]))",
                    "{{level}} {{reason}}",
                ),
                Query(
                    "sum by (level) (increase(ecdctr_lost_records_total[$__rate_interval]))",
                    "{{level}} lost",
                ),
                Query(
                    "sum by (level) (increase(ecdctr_checkpoint_failures_total[$__rate_interval]))",
                    "{{level}} checkpoints failed",
                ),
            ],
            Look("none", decimals=0, steps=((None, GREEN), (1, RED)), low=0),
            "Alerts: DeadLetters, RecordsLost, CheckpointFailing.",
        ),
        lines(
            "Memory",
            [Query("process_resident_memory_bytes", "{{process}}")],
            Look("bytes", low=0),
            "Resident, by process. It grows with the ids until tables are full, then stays.",
        ),
        lines(
            "Table rows in use",
            [Query("max by (level, table) (ecdctr_table_occupancy_ratio)", "{{level}} {{table}}")],
            Look("percentunit", steps=((None, GREEN), (0.95, ORANGE)), low=0, high=1),
            "Full tables evict the ids that matter least.",
        ),
    ]
