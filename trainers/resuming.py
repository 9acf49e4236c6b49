"""Where a trainer goes on: the checkpoint that rank 0 chooses, and each rank's share of it."""

from __future__ import annotations

import contextlib
import fcntl
from dataclasses import replace
from typing import Any

from errors import UserError
from settings import flatten
from streaming.connection import KafkaConfig
from streaming.kafka_clients import consumer
from trainers.checkpoint import Checkpoint, CheckpointStore, Progress, require_same_shape
from trainers.levels import Level
from trainers.ranks import Ranks


def shared_batch(batch_size: int, ranks: int) -> int:
    """Impressions of a batch on each of ``ranks``; UserError: they cannot be shared evenly."""
    if batch_size % ranks:
        raise UserError(f"batch_size = {batch_size} cannot be shared by {ranks} ranks evenly")
    return batch_size // ranks


def shape_of(level: Level) -> dict[str, Any]:
    """The settings that a state depends on, by their configuration keys."""
    key = "impressions.features"
    features = {
        f"{key}.{f.name}": f"{'multi ' * f.multi}{f.kind}"
        + (f" in table {f.table_name}" if f.sparse else "")
        for f in level.schema.features
    }
    order = {key: [f.name for f in level.schema.features]}
    model = flatten(level.config.model.model_dump(mode="json"), f"{level.name}.model.")
    return order | features | model


def chosen(
    store: CheckpointStore,
    level: Level,
    kafka: KafkaConfig,
    ranks: Ranks,
    stack: contextlib.ExitStack,
) -> Checkpoint | None:
    """What rank 0 found to go on from; until ``stack`` closes, the checkpoints are its own.

    Raises:
        UserError: on every rank what is wrong with it.
    """
    found, problem = None, None
    if ranks.rank == 0:
        try:
            _require_partitions(kafka, level.topic, ranks.size)
            _own(store, stack)
            found = store.latest()
            if found is not None:
                require_same_shape(found, shape_of(level))
                _require_same_topic(found, level.topic)
        except UserError as error:
            problem = error
    found, problem = ranks.gather((found, problem))[0]
    if problem is not None:
        raise problem
    return found


def share_of(whole: Progress, ranks: Ranks) -> Progress:
    """This rank's part of what a checkpoint says of all ranks.

    Counts are sums: only rank 0 goes on from them. Positions are of the partitions
    that this rank reads: it must not answer for another's, which move on.
    """
    return replace(
        whole,
        impressions=whole.impressions if ranks.rank == 0 else 0,
        positions={p: at for p, at in whole.positions.items() if p % ranks.size == ranks.rank},
        world_size=ranks.size,
    )


def _own(store: CheckpointStore, stack: contextlib.ExitStack) -> None:
    """Keep every other trainer out of the checkpoints' folder, then clear it of leftovers."""
    try:
        store.directory.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((store.directory / ".lock").open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store.prepare()
    except BlockingIOError:
        raise UserError(
            f"another trainer keeps its checkpoints in {store.directory}; "
            "stop it, or take another --run-dir"
        ) from None
    except OSError as error:
        raise UserError(
            f"{store.directory} cannot hold checkpoints: {error.strerror}; take another --run-dir"
        ) from error


def _require_same_topic(found: Checkpoint, topic: str) -> None:
    """Positions say nothing about another topic."""
    if found.progress.topic != topic:
        raise UserError(
            f"{found.path} learnt from topic '{found.progress.topic}', and now it should be "
            f"'{topic}'; name that one again, or move the checkpoints away to start anew"
        )


def _require_partitions(kafka: KafkaConfig, topic: str, ranks: int) -> None:
    if ranks == 1:
        return
    with contextlib.closing(consumer(kafka)) as client:
        found = len(client.partitions_for_topic(topic) or ())
    if found < ranks:
        raise UserError(
            f"topic '{topic}' has {found} partitions, too few for {ranks} ranks: start fewer ranks"
        )
