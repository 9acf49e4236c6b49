"""Requests in a trainer's process: the control topic is followed, outcomes are told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from config import Config
from monitoring.drift.settings import HOUR_MS
from monitoring.early_telemetry import EarlyTelemetry
from streaming.connection import KafkaConfig
from streaming.control import Ask, Request
from streaming.small_topic import SmallTopic
from trainers import hand_down, snapshots
from trainers.checkpoint import Progress
from trainers.early import EARLY, EarlySchedule, Inbox, Outcome
from trainers.hand_down import moment
from trainers.levels import Level
from trainers.narration import say
from trainers.ranks import Ranks
from trainers.saver import Saver
from trainers.schedule import Schedule

_FROM_SCRATCH = "cpm.mode = scratch hands down whole windows only"


def schedule_of(
    level: Level,
    config: Config,
    kafka: KafkaConfig,
    ranks: Ranks,
    progress: Progress,
    saver: Saver,
    registry: CollectorRegistry,
    stack: contextlib.ExitStack,
) -> Schedule | None:
    """When the level's boundaries are due, with those that are asked for until ``stack`` closes.

    None: the level has none of its own. An aligned one obeys nobody: it gives what a replay
    gives, of which nobody asks anything.
    """
    if level.name == "actr":
        return None
    tpm = level.name == "tpm"
    every_ms = config.history.period_ms if tpm else config.cpm.cadence_ms
    if level.config.align:
        return Schedule(every_ms)
    ask: Ask = "period" if tpm else "hand-down"
    inbox, telemetry = Inbox(), EarlyTelemetry(registry, level.name, ranks.rank, list(Outcome))

    def told(outcome: Outcome, request: Request, boundary: int) -> None:
        telemetry.request(outcome)
        if outcome is not Outcome.ANSWERED:  # of those there are many after every restart
            say(words(outcome, request, boundary, refusal))

    def on_disk() -> int:
        saver.wait()
        return (saver.on_disk or progress).marks.get(EARLY, 0)

    refusal = _FROM_SCRATCH if not tpm and config.cpm.mode == "scratch" else ""
    if ranks.rank == 0:
        take = receiver(ask, inbox)
        stack.enter_context(SmallTopic(kafka, config.topics.control, "requests", take))
    return EarlySchedule(
        every_ms,
        snapshots.MARK if tpm else hand_down.CLOSED,
        ranks,
        inbox,
        on_disk,
        told,
        refusal,
        progress.marks,
        round(config.drift.early.cool_down_hours * HOUR_MS),
    )


def receiver(ask: Ask, inbox: Inbox) -> Callable[[bytes | None, bytes | None], None]:
    """Puts the records that are requests for ``ask`` into ``inbox``; ValueError: no request."""

    def take(key: bytes | None, value: bytes | None) -> None:
        request = Request.decode(value)
        if request.ask == ask:
            inbox.put(request)

    return take


def words(outcome: Outcome, request: Request, boundary: int, refusal: str) -> str:
    """One line for the person who watches."""
    asked = f"an early {request.ask} was asked for ({request.why or request.id})"
    if outcome is Outcome.TAKEN:
        return f"{asked}: there will be one at {moment(boundary)}"
    if outcome is Outcome.TOO_SOON:
        return f"{asked}: refused, so soon after the one at {moment(boundary)}"
    if outcome is Outcome.REFUSED:
        return f"{asked}: refused, {refusal}"
    return f"{asked}: put off, the checkpoint with it could not be written"
