"""What CPM hands down to A-CTR: its whole model, or what changed since the last time.

In a version's directory:

    signature.json          features, tables and dense shapes, which must be the taker's
    .metadata, *.distcp,    of a whole model: tables, vocabularies, dense weights
      hidden-00000.pt ...
    delta-00000.npz ...     of a delta, from each rank: see `trainers.delta_file`

Legend: T rows or ids of a table that changed, K of them on this rank, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from embeddings.local_tables import LocalTable, local_tables
from embeddings.resharding import belongs
from embeddings.tables import table_specs
from embeddings.waiting import Waiting
from errors import UserError
from trainers.batch_norm import BatchNorm
from trainers.delta import DeltaTracker, dense_part, dense_weights
from trainers.delta_file import delta_path, read_deltas, write_delta
from trainers.learner import Learner
from trainers.state import Snapshot, State, copy_to_host, read_state, write_state
from trainers.table_changes import Changes, Columns

SIGNATURE = "signature.json"
_ROWS = "rows of "


@dataclass(frozen=True)
class Delta:
    """Every table's changes and every dense weight's (BatchNorm aside), over all ranks."""

    tables: dict[str, Changes]
    dense: Columns
    signature: dict[str, str]

    @property
    def rows(self) -> int:
        return sum(len(changes.keys_T) for changes in self.tables.values())


@dataclass(frozen=True)
class Applied:
    """What became of a delta's managed ids on this rank."""

    known: int = 0  # had a row
    admitted: int = 0  # were given a free one
    waiting: int = 0  # are kept until they get one
    dropped: int = 0  # no room to wait


# -- handing down ------------------------------------------------------------------------


def export_full(
    learner: Learner, directory: Path, process_group: dist.ProcessGroup | None = None
) -> None:
    """Write the model, without its optimizers, into ``directory``, which exists.

    With several ranks all must call this; see `write_state`, also for what is raised.
    """
    place = learner.place
    snapshot = Snapshot(
        copy_to_host(_model_state(learner)), learner.hidden_state(), place.rank, place.world_size
    )
    write_state(snapshot, directory, process_group)
    _write_signature(learner, directory)


def export_delta(learner: Learner, tracker: DeltaTracker, directory: Path) -> None:
    """Write what ``tracker`` noted into ``directory``; rebase it once that is safe.

    Raises:
        OSError: the disk is full or not writable.
        ValueError: a change is not finite: the model diverged.
    """
    tables, dense = tracker.changes()
    rank = learner.place.rank
    write_delta(delta_path(directory, rank), tables, {} if rank else dense)
    _write_signature(learner, directory)


def _model_state(learner: Learner) -> State:
    return {name: value for name, value in learner.state().items() if name.startswith("model.")}


def _write_signature(learner: Learner, directory: Path) -> None:
    if learner.place.rank == 0:
        (directory / SIGNATURE).write_text(json.dumps(signature(learner), indent=1))


# -- taking over -------------------------------------------------------------------------


def reinitialize(into: Learner, version: Path, *, keep_batch_norm: bool = False) -> None:
    """Start over from the whole model in ``version``, as the paper does.

    Tables come with their vocabularies. BatchNorm (running statistics and affine terms)
    begins anew, because ads are distributed differently, unless ``keep_batch_norm``; the
    optimizers' state begins anew too. Every rank must call this.

    Raises:
        UserError: features or shapes differ; they are named.
    """
    _require_same(_read_signature(version), signature(into))
    place = into.place
    hidden = read_state(_model_state(into), version, place.rank, place.world_size)
    _take_vocabularies(into, hidden["vocabularies"])
    _forget_optimizers(into)
    if not keep_batch_norm:
        for module in dense_part(into).modules():
            if isinstance(module, BatchNorm):
                module.reset()


def start_over(learner: Learner) -> None:
    """Begin anew, as just made: for a moment there are two of it in memory.

    Every rank must call this.
    """
    become(learner, Learner(learner.config, learner.schema))


@torch.no_grad()
def become(learner: Learner, other: Learner) -> None:
    """Go on as ``other``, of the same configuration: tables, vocabularies, dense weights and
    optimizers. What counts steps and rounds stays ``learner``'s. Every rank must call this.
    """
    ours, theirs = learner.state(), other.state()
    for name, value in ours.items():
        for tensor, its in zip(_local(value), _local(theirs[name]), strict=True):
            tensor.copy_(its)
    _take_vocabularies(learner, other.hidden_state()["vocabularies"])


def _take_vocabularies(learner: Learner, hidden: dict[str, Any]) -> None:
    """What state dicts leave out of vocabularies; what counts rounds stays this learner's."""
    for name, vocabulary in learner.vocabularies.items():
        admitted, evicted = vocabulary.admitted_total, vocabulary.evicted_total
        vocabulary.load_hidden_state(hidden[name])
        vocabulary.admitted_total, vocabulary.evicted_total = admitted, evicted
    for table in local_tables(learner.model).values():
        if table.cached:
            tables: Any = table.kernel.emb_module
            tables.reset_cache_states()  # of what was there before


@torch.no_grad()
def _forget_optimizers(learner: Learner) -> None:
    for name, value in learner.state().items():
        if name.startswith("optimizer."):
            for tensor in _local(value):
                tensor.zero_()


def _local(value: torch.Tensor | ShardedTensor) -> list[torch.Tensor]:
    """What this rank holds of it, alive."""
    if isinstance(value, ShardedTensor):
        return [shard.tensor.detach() for shard in value.local_shards()]
    return [value.detach()]


def accept_deltas(learner: Learner, share: float) -> None:
    """Keep changes to ids without a row, ``share`` of each managed table's rows at most.

    Call it before the learner is loaded: what waits belongs to its checkpoints.
    """
    for table in local_tables(learner.model).values():
        if table.vocabulary is not None:
            rows, dim = table.weights_ND.shape
            table.vocabulary.waiting = Waiting(int(rows * share), dim)


def read_delta(directory: Path) -> Delta:
    """What :func:`export_delta` wrote on all ranks.

    Raises:
        OSError, ValueError: it is not there, or is not a delta.
    """
    return Delta(*read_deltas(directory), _read_signature(directory))


@torch.no_grad()
def apply_delta(into: Learner, delta: Delta, scale: float = 1.0) -> Applied:
    """Add ``scale`` times what CPM changed to all weights but BatchNorm's.

    Rows of managed tables are matched by id. An id without a row gets a free one, the
    greatest changes first, and starts there from the id's own initial vector and its
    change; where there is none the change waits until the vocabulary admits the id.
    Optimizer state stays. Every rank must call this.

    Raises:
        UserError: features or shapes differ; they are named.
    """
    _require_same(delta.signature, signature(into), matched_by_id=True)
    for name, weight in dense_weights(into).items():
        weight.add_(delta.dense[name].to(weight), alpha=scale)
    counts = [
        _apply_to_table(table, delta.tables[name], scale, into)
        for name, table in local_tables(into.model).items()
        if name in delta.tables
    ]
    return Applied(*(sum(column) for column in zip(*counts, strict=True)))


def _apply_to_table(
    table: LocalTable, changes: Changes, scale: float, into: Learner
) -> tuple[int, int, int, int]:
    if table.cached:
        raise UserError(
            f"table '{table.name}' lives in host memory behind the GPU's cache, where deltas are "
            "not applied; use actr.transfer = 'reinitialize', or give it room on GPUs"
        )
    if table.vocabulary is None:
        rows_T = changes.keys_T - table.first_row
        here_T = (rows_T >= 0) & (rows_T < len(table.weights_ND))
        _add(table, rows_T[here_T], scale * changes.change_TD[here_T])
        return 0, 0, 0, 0
    mine_T = belongs(changes.keys_T, into.place.rank, into.place.world_size)
    ids_K, gone_K = changes.keys_T[mine_T], changes.gone_T[mine_T]
    change_KD = scale * changes.change_TD[mine_T]
    known_K, rows = table.vocabulary.rows_of(ids_K.to(table.weights_ND.device))
    known_K = known_K.cpu()
    _add(table, rows, change_KD[known_K])
    strange_K = ~known_K
    admitted, waiting, dropped = _welcome(
        table, ids_K[strange_K], change_KD[strange_K], gone_K[strange_K]
    )
    return int(known_K.sum()), admitted, waiting, dropped


def _add(table: LocalTable, rows: torch.Tensor, change_KD: torch.Tensor) -> None:
    weights_ND = table.weights_ND
    weights_ND.index_add_(0, rows.to(weights_ND.device), change_KD.to(weights_ND))


def _welcome(
    table: LocalTable, ids_K: torch.Tensor, change_KD: torch.Tensor, gone_K: torch.Tensor
) -> tuple[int, int, int]:
    """Ids without a row: how many were given one, how many wait, how many did not fit."""
    vocabulary = table.vocabulary
    assert vocabulary is not None
    waiting = vocabulary.waiting
    if waiting is None:
        waiting = Waiting(0, change_KD.shape[1])
    # What is taken back was never given to an id that is nowhere.
    owed_K = ~gone_K | waiting.known(ids_K)
    ids_K, change_KD, gone_K = ids_K[owed_K], change_KD[owed_K], gone_K[owed_K]
    change_KD = change_KD + waiting.take(ids_K)
    coming_K = (~gone_K).nonzero().squeeze(1)
    greatest = torch.argsort(change_KD[coming_K].norm(dim=1), descending=True, stable=True)
    coming_K = coming_K[greatest]
    device = table.weights_ND.device
    rows = vocabulary.admit(ids_K[coming_K].to(device))
    taken_K, left_K = coming_K[: len(rows)], torch.ones(len(ids_K), dtype=torch.bool)
    left_K[taken_K] = False
    first_KD = table.first_vectors(ids_K[taken_K].to(device))
    table.weights_ND[rows] = first_KD + change_KD[taken_K].to(device)
    table.momentum_N[rows] = 0.0
    dropped = waiting.dropped_total
    waiting.add(ids_K[left_K], change_KD[left_K])
    return len(rows), int(left_K.sum()), waiting.dropped_total - dropped


# -- who fits whom -----------------------------------------------------------------------


def signature(learner: Learner) -> dict[str, str]:
    """What must be the same on both sides, in words: features, tables, dense shapes."""
    return dict(_facts(learner))


def _facts(learner: Learner) -> Iterator[tuple[str, str]]:
    schema, model = learner.schema, learner.config.model
    yield "order of features", ", ".join(feature.name for feature in schema.features)
    for feature in schema.features:
        table = f" in table {feature.table_name}" if feature.sparse else ""
        yield f"feature {feature.name}", f"{'multi ' * feature.multi}{feature.kind}{table}"
    for spec in table_specs(schema, model):
        yield f"table {spec.name}", f"{'managed' if spec.managed else 'hashed'}, width {spec.dim}"
        # An id is found by its name, a category by its row.
        yield f"{_ROWS}{'ids' if spec.managed else 'categories'} {spec.name}", str(spec.rows)
    for name, weight in sorted(dense_part(learner).state_dict().items()):
        yield f"weight {name}", " x ".join(map(str, weight.shape))


def _read_signature(directory: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((directory / SIGNATURE).read_text())
    return found


def _require_same(
    theirs: dict[str, str], ours: dict[str, str], *, matched_by_id: bool = False
) -> None:
    """Raise UserError naming what differs; ``matched_by_id``: managed tables may differ in rows."""
    differing = [
        f"{key}: {theirs.get(key, 'none')} there, {ours.get(key, 'none')} here"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
        and not (matched_by_id and key.startswith(f"{_ROWS}ids "))
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"what is handed down is of another model ({'; '.join(differing[:3])}{more}); "
            "give both levels the same features and model settings"
        )
