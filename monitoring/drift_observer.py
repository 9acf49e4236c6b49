"""Drift as the monitor sees it: predictions and impressions in, alarms and metrics out. Pure."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.drift.asking import Decision, Policy, Verdict
from monitoring.drift.settings import Domain, DriftConfig
from monitoring.drift.watch import Alarm, DriftFigures, DriftWatch
from monitoring.monitor_told import Alarm as Told
from monitoring.sampled_rows import Predicted
from monitoring.watermark import NEVER
from streaming.control import Request
from streaming.impressions import ImpressionSchema

log = logging.getLogger(__name__)

_LOOP = "loop"


class Telemetry(Protocol):
    """`monitoring.drift_telemetry.DriftTelemetry` is such."""

    def observe(self, figures: DriftFigures) -> None: ...

    def alarmed(self, alarms: Sequence[Alarm]) -> None: ...

    def going_on(self, alarms: Sequence[Alarm]) -> None: ...

    def decided(self, decision: Decision) -> None: ...


class Sender(Protocol):
    """`monitoring.control_sender.ControlSender` is such."""

    def send(self, request: Request) -> None: ...

    @property
    def waiting(self) -> Sequence[Request]:
        """Requests that may not have gone out yet."""


class DriftObserver:
    """The ledger's observer of drift.

    A domain's event time goes on with the slower of its predictions and its impressions, so
    that neither comes too late for its step or day. Every alarm is decided upon; what it asks
    for goes to ``sender``, and is part of the state until that has let go of it.
    """

    name = "drift"

    def __init__(
        self,
        config: DriftConfig,
        schema: ImpressionSchema,
        telemetry: Telemetry,
        sender: Sender,
    ) -> None:
        self._config, self._schema, self._telemetry = config, schema, telemetry
        self._watch, self._policy, self._sender = DriftWatch(config, schema), Policy(config), sender

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
                self._alarmed(self._watch.advance(domain, reached))

    def _alarmed(self, alarms: Sequence[Alarm]) -> None:
        self._telemetry.alarmed(alarms)
        for decision in (d for alarm in alarms for d in self._policy.decide(alarm)):
            log.info("%s", decision.words)
            self._telemetry.decided(decision)
            if decision.verdict is Verdict.ASKED:
                self._sender.send(decision.request)

    def alarms(self) -> Sequence[Told]:
        """The last ones, newest first."""
        return [Told(alarm.event_time, _words(alarm)) for alarm in reversed(self._watch.alarms())]

    def tell(self) -> None:
        """Let scrapes see it."""
        self._telemetry.observe(self._watch.figures())

    def state(self) -> dict[str, NDArray]:
        waiting = [request.encode().decode() for request in self._sender.waiting]
        plain = json.dumps({"policy": self._policy.state(), "waiting": waiting})
        return self._watch.state() | {_LOOP: np.frombuffer(plain.encode(), np.uint8)}

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Go on from a state; raises KeyError or ValueError where that cannot be."""
        self._watch = DriftWatch.from_state(self._config, self._schema, state)
        self._telemetry.going_on(self._watch.alarms())
        if _LOOP in state:  # an older checkpoint has none
            self._go_on_asking(json.loads(state[_LOOP].tobytes()))

    def _go_on_asking(self, state: Mapping[str, Any]) -> None:
        self._policy.from_state(state["policy"])
        if self._config.closes_loop:
            for request in state["waiting"]:
                self._sender.send(Request.decode(request))


def _domain(name: str) -> Domain:
    return "natural" if name == "natural" else "ad"


def _words(alarm: Alarm) -> str:
    return (
        f"drift: {alarm.signal} of {alarm.domain} impressions changed "
        f"({alarm.detector}, {alarm.statistic:.3g})"
    )
