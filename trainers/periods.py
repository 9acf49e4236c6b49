"""TPM's periods in its process: vectors to their topic, what became of them to metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from embeddings.history_settings import HistoryConfig
from monitoring.period_telemetry import PeriodTelemetry
from trainers.checkpoint import Checkpoint
from trainers.learner import Learner
from trainers.levels import Level
from trainers.narration import closing, say
from trainers.publisher import Publisher
from trainers.ranks import Ranks
from trainers.schedule import Schedule
from trainers.seen import read_seen
from trainers.snapshots import MARK, Closed, Snapshots


def snapshots_of(
    level: Level,
    config: HistoryConfig,
    learner: Learner,
    ranks: Ranks,
    publisher: Publisher,
    registry: CollectorRegistry,
    resumed: Checkpoint | None,
    schedule: Schedule | None,
) -> Snapshots | None:
    """What closes the level's periods, going on from a checkpoint; None: it has no periods."""
    if not level.snapshots:
        return None
    telemetry = PeriodTelemetry(registry, level.name, ranks.rank)
    closed = resumed.progress.marks.get(MARK, 0) if resumed is not None else 0
    if closed:
        telemetry.going_on(closed)

    def told(period: Closed) -> None:
        telemetry.closed(period.period_end, period.entities, period.seconds)
        say(closing(period.period_end, period.entities, period.seconds))

    return Snapshots(
        learner,
        level.schema,
        config,
        ranks,
        send=publisher.snapshot,
        told=told,
        closed=closed,
        seen=read_seen(resumed.path) if resumed is not None else None,
        schedule=schedule,
    )
