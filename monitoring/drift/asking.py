"""Which alarm asks for an early refresh: what the loop that drift closes decides, and why.

An early period of TPM or hand-down of CPM carries what natural impressions have taught since
the last one. So it helps where natural interests have moved, and nowhere else: A-CTR learns
from the ads themselves as they come, and clicks that are lost, doubled or a robot's are
nothing to hand down sooner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from monitoring.drift.settings import DAY_HOURS, HOUR_MS, DriftConfig
from monitoring.drift.watch import Alarm
from streaming.control import ASKS, Ask, Request


class Verdict(StrEnum):
    """A metric label, so a fixed set."""

    ASKED = "asked"
    NO_USE = "no-use"
    """An early refresh does not help against this."""
    COOLING_DOWN = "cooling-down"
    OVER_BUDGET = "over-budget"
    OFF = "off"
    """It would have been asked for, or considered, if `drift.closes_loop` were on."""


@dataclass(frozen=True)
class Decision:
    """What an alarm comes to, of one thing that can be asked for."""

    request: Request
    verdict: Verdict
    reason: str

    @property
    def words(self) -> str:
        """One line for people."""
        return f"early {self.request.ask} {self.verdict} ({self.request.why}): {self.reason}"


class Policy:
    """Decides on every alarm; both the cool-down and the budget are in event time.

    The same alarms in the same order give the same decisions, whoever was killed meanwhile.
    """

    def __init__(self, config: DriftConfig) -> None:
        self._config, self._early = config, config.early
        self._asked: list[tuple[int, Ask]] = []  # event times, ms, of the last ones

    def decide(self, alarm: Alarm) -> list[Decision]:
        """One decision for each of what can be asked for."""
        return [self._decide(alarm, ask) for ask in ASKS]

    def _decide(self, alarm: Alarm, ask: Ask) -> Decision:
        why = f"{alarm.signal} of {alarm.domain} impressions, {_when(alarm.event_time)}"
        request = Request(ask, alarm.event_time, alarm.domain, alarm.signal, why)
        verdict, reason = self._verdict(request)
        if verdict is Verdict.ASKED:
            self._remember(request)
        return Decision(request, verdict, reason)

    def _verdict(self, request: Request) -> tuple[Verdict, str]:
        early, at = self._early, request.at
        if request.domain not in early.domains or request.signal not in early.signals:
            return Verdict.NO_USE, "it would not help (drift.early.domains, drift.early.signals)"
        if not self._config.closes_loop:
            return Verdict.OFF, "drift.closes_loop is off"
        last = [then for then, ask in self._asked if ask == request.ask]
        if any(abs(at - then) < early.cool_down_hours * HOUR_MS for then in last):
            return Verdict.COOLING_DOWN, f"the last one was asked for at {_when(max(last))}"
        spent = sum(abs(at - then) < DAY_HOURS * HOUR_MS for then, _ in self._asked)
        if spent >= early.budget_a_day:
            return Verdict.OVER_BUDGET, f"{spent} of {early.budget_a_day} a day are spent"
        return Verdict.ASKED, f"{spent + 1} of {early.budget_a_day} a day"

    def _remember(self, request: Request) -> None:
        hours = max(DAY_HOURS, self._early.cool_down_hours)
        newest = max([request.at, *(then for then, _ in self._asked)])
        self._asked.append((request.at, request.ask))
        self._asked = [a for a in self._asked if newest - a[0] < hours * HOUR_MS]

    def state(self) -> dict[str, Any]:
        """All there is to know, as JSON."""
        return {"asked": self._asked}

    def from_state(self, state: Mapping[str, Any]) -> None:
        self._asked = [(int(then), ask) for then, ask in state["asked"]]


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
