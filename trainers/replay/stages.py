"""The levels above A-CTR, each run once for all variants that have it in common.

Knowledge only goes down, so a level can run over the whole log before the next one, as
long as what it hands down is taken by event time. Each leaves a folder:

    <folder>/stage.json     what it took, and CPM's hand-downs; written last
    <folder>/...            TPM's snapshots, or CPM's hand-downs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from config import Config
from embeddings.history import Snapshot
from trainers.checkpoint import Progress
from trainers.delta import DeltaTracker
from trainers.hand_down import HandDown, HandDowns, HandDownStore
from trainers.learner import Learner
from trainers.levels import level as find_level
from trainers.loop import Learn
from trainers.ranks import Ranks
from trainers.replay.histories import Histories, reached, with_history, write_period
from trainers.replay.level_run import (
    Advance,
    Publish,
    nowhere,
    run_level,
    settled,
    stepping,
)
from trainers.replay.log import NATURAL, RecordedLog
from trainers.replay.results import Spent, made_whole
from trainers.schedule import Schedule
from trainers.snapshots import Closed, Snapshots

_STAGE, _HAND_DOWNS = "stage.json", "handdowns"


@dataclass(frozen=True)
class Stage:
    """What a level left behind."""

    folder: Path
    spent: Spent
    hand_downs: tuple[HandDown, ...] = ()


def load_stage(folder: Path) -> Stage | None:
    """None where there is nothing whole."""
    try:
        about = json.loads((folder / _STAGE).read_text())
    except (OSError, ValueError):
        return None
    found = [HandDown(**values) for values in about["hand_downs"]]
    place = folder.resolve() / _HAND_DOWNS
    moved = [replace(h, location=str(place / str(h.boundary))) for h in found]
    return Stage(folder, Spent(**about["spent"]), tuple(moved))


def _save(folder: Path, spent: Spent, hand_downs: list[HandDown] | None = None) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    spent = replace(spent, handed_down=size)
    about = {"spent": asdict(spent), "hand_downs": [asdict(h) for h in hand_downs or ()]}
    (folder / _STAGE).write_text(json.dumps(about))


def run_tpm(
    log: RecordedLog, config: Config, folder: Path, advance: Advance, early: Iterable[int] = ()
) -> None:
    """TPM over the natural impressions; its snapshots go to ``folder``.

    Args:
        early: ends of periods, ms, besides those of the schedule.
    """
    level = find_level("tpm", config)
    learner = Learner(settled(level.config), level.schema)
    with made_whole(folder) as partial:
        period: list[Snapshot] = []

        def told(closed: Closed) -> None:
            write_period(partial, period)
            period.clear()

        snapshots = Snapshots(
            learner,
            level.schema,
            config.history,
            Ranks(),
            send=period.append,
            told=told,
            schedule=Schedule(config.history.period_ms, early),
        )
        learn = snapshots.watching(stepping(learner))
        spent = _over_natural(learner, log, config, None, learn, snapshots, advance)
        _save(partial, spent)


def run_cpm(
    log: RecordedLog,
    config: Config,
    histories: Histories | None,
    folder: Path,
    advance: Advance,
    early: Iterable[int] = (),
    publish: Publish = nowhere,
) -> None:
    """CPM over the natural impressions; its hand-downs go to ``folder``.

    Args:
        early: boundaries, ms, at which it hands down besides those of the schedule.
        publish: told of its predictions.
    """
    level = find_level("cpm", config)
    learner = Learner(settled(level.config), level.schema)
    # Whole models and changes are told apart as in CPM's own process.
    whole = config.actr.transfer == "reinitialize" or config.cpm.mode == "scratch"
    tracker = None if whole else DeltaTracker(learner)
    with made_whole(folder) as partial:
        # What a crash takes is made again: a stage counts once it is whole.
        store = HandDownStore(partial / _HAND_DOWNS, keep=sys.maxsize, durable=False)
        store.prepare()
        found: list[HandDown] = []
        boundary = HandDowns(
            learner,
            tracker,
            store,
            Schedule(config.cpm.cadence_ms, early),
            Ranks(),
            found.append,
            lambda gone: None,
            afresh=config.cpm.mode == "scratch",
            progress=Progress(),
        )
        learn = stepping(learner)
        spent = _over_natural(learner, log, config, histories, learn, boundary, advance, publish)
        _save(partial, spent, found)


def _over_natural(
    learner: Learner,
    log: RecordedLog,
    config: Config,
    histories: Histories | None,
    learn: Learn,
    boundary: Any,
    advance: Advance,
    publish: Publish = nowhere,
) -> Spent:
    settings = config.replay
    batches = log.batches((NATURAL,), learner.config.batch_size, settings.partitions)
    return run_level(
        batches,
        settings.read_ahead,
        with_history(learner.to_batch, histories),
        key=reached(histories),
        learn=learn,
        advance=advance,
        boundaries=[boundary],
        publish=publish,
    )
