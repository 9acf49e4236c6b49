"""Drift as the monitor sees it: predictions and impressions in, alarms and metrics out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyarrow as pa
from numpy.typing import NDArray

from monitoring.drift.settings import Domain, DriftConfig
from monitoring.drift.watch import Alarm, DriftFigures, DriftWatch
from monitoring.monitor_told import Alarm as Told
from monitoring.sampled_rows import Predicted
from monitoring.watermark import NEVER
from streaming.impressions import ImpressionSchema


class Telemetry(Protocol):
    """`monitoring.drift_telemetry.DriftTelemetry` is such."""

    def observe(self, figures: DriftFigures) -> None: ...

    def alarmed(self, alarms: Sequence[Alarm]) -> None: ...

    def going_on(self, alarms: Sequence[Alarm]) -> None: ...


class DriftObserver:
    """The ledger's observer of drift.

    A domain's event time goes on with the slower of its predictions and its impressions, so
    that neither comes too late for its step or day.
    """

    name = "drift"

    def __init__(self, config: DriftConfig, schema: ImpressionSchema, telemetry: Telemetry) -> None:
        self._config, self._schema, self._telemetry = config, schema, telemetry
        self._watch = DriftWatch(config, schema)

    def predictions(self, level: str, rows: Predicted) -> None:
        domain = self._config.domain_of(level)
        if domain is not None:
            self._watch.update_predictions(domain, rows.event_time, rows.click, rows.probability)

    def impressions(self, domain: str, rows: pa.RecordBatch) -> None:
        self._watch.update_impressions(_domain(domain), rows)

    def advance(self, watermarks: Mapping[str, int]) -> None:
        """By level and by domain: the event time before which nothing is to come, ms."""
        for level, predicted in watermarks.items():
            domain = self._config.domain_of(level)
            if domain is None:
                continue
            read = watermarks[domain]
            # A level that never predicted does not run: its domain's features go on without it.
            reached = read if predicted == NEVER else min(predicted, read)
            if reached != NEVER:
                self._telemetry.alarmed(self._watch.advance(domain, reached))

    def alarms(self) -> Sequence[Told]:
        """The last ones, newest first."""
        return [Told(alarm.event_time, _words(alarm)) for alarm in reversed(self._watch.alarms())]

    def tell(self) -> None:
        """Let scrapes see it."""
        self._telemetry.observe(self._watch.figures())

    def state(self) -> dict[str, NDArray]:
        return self._watch.state()

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Go on from a state; raises KeyError or ValueError where that cannot be."""
        self._watch = DriftWatch.from_state(self._config, self._schema, state)
        self._telemetry.going_on(self._watch.alarms())


def _domain(name: str) -> Domain:
    return "natural" if name == "natural" else "ad"


def _words(alarm: Alarm) -> str:
    return (
        f"drift: {alarm.signal} of {alarm.domain} impressions changed "
        f"({alarm.detector}, {alarm.statistic:.3g})"
    )
