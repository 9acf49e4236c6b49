"""What a learner has changed since its last hand-down, kept up to date as it learns.

Memory grows with the rows touched since the last hand-down (of small tables: it is a copy
of them), and never beyond a second copy of the tables. An id that loses its row has its
change taken back: whoever adds up all deltas holds what this learner holds, and no more
when the id comes again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from embeddings.local_tables import local_tables
from errors import UserError
from trainers.batch_norm import BatchNorm
from trainers.learner import Learner
from trainers.model import Dense
from trainers.table_changes import Changes, Columns, Copied, Noted, Table

COPIED = 2**20
"""Values in a table of which a whole copy is cheap."""


class DeltaTracker:
    """Follows a learner; make it before the first step and load it with the learner.

    Args:
        copied: values in a table that is copied whole rather than row by row.

    Raises:
        UserError: a table lives behind a GPU's cache, where rows cannot be read one by one.
    """

    def __init__(self, learner: Learner, copied: int = COPIED) -> None:
        self._learner = learner
        tables = local_tables(learner.model)
        for table in tables.values():
            if table.cached:
                raise UserError(
                    f"table '{table.name}' lives in host memory behind the GPU's cache, where "
                    "changes are not tracked; hand down whole models (actr.transfer = "
                    "'reinitialize'), or give the table room on GPUs"
                )
        self._tables: dict[str, Table] = {
            name: (Copied if table.weights_ND.numel() <= copied else Noted)(table)
            for name, table in tables.items()
        }
        self._hooks = _listen(self._tables)
        self._dense = dense_weights(learner)
        self._dense_base = {name: weight.clone() for name, weight in self._dense.items()}

    def changes(self) -> tuple[dict[str, Changes], Columns]:
        """Table and dense weight to what changed since the last hand-down (BatchNorm aside)."""
        tables = {name: touched.changes() for name, touched in self._tables.items()}
        dense = {name: now - self._dense_base[name] for name, now in self._dense.items()}
        return tables, dense

    def rebase(self) -> None:
        """Count changes from here on."""
        for touched in self._tables.values():
            touched.rebase()
        self._dense_base = {name: weight.clone() for name, weight in self._dense.items()}

    def rows_noted(self) -> int:
        return sum(touched.noted for touched in self._tables.values())

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; nothing in it is changed in place afterwards."""
        tables = {name: touched.state() for name, touched in self._tables.items()}
        return {"tables": tables, "dense": self._dense_base}

    def write(self, state: dict[str, Any], directory: Path) -> None:
        """Write this rank's :meth:`state` into a checkpoint."""
        place = self._learner.place
        world = {"world_size": place.world_size}
        torch.save(state | world, _path(directory, place.rank))

    def load(self, directory: Path) -> None:
        """Go on from what all ranks wrote, after the learner was loaded from there.

        Raises:
            UserError: that checkpoint was written without tracking.
        """
        place = self._learner.place
        try:
            first = torch.load(_path(directory, 0), weights_only=True)
        except FileNotFoundError:
            raise UserError(
                f"{directory} was written without noting changes to hand down; move the "
                "checkpoints away to start anew, or hand down whole models"
            ) from None
        others = [_path(directory, r) for r in range(1, first["world_size"])]
        ranks = [first] + [torch.load(path, weights_only=True) for path in others]
        for name, touched in self._tables.items():
            parts = [rank["tables"][name] for rank in ranks if name in rank["tables"]]
            whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            touched.load(whole, place.rank, place.world_size)
        device = self._learner.device
        self._dense_base = {name: base.to(device) for name, base in first["dense"].items()}

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for touched in self._tables.values():
            if touched.table.vocabulary is not None:
                touched.table.vocabulary.moving = None


def dense_weights(learner: Learner) -> Columns:
    """Every dense weight that is handed down, alive: all but BatchNorm's."""
    dense = dense_part(learner)
    norms = {
        f"{name}.{own}"
        for name, module in dense.named_modules()
        if isinstance(module, BatchNorm)
        for own, _ in module.named_parameters(recurse=False)
    }
    return {n: p.detach() for n, p in dense.named_parameters() if n not in norms}


def dense_part(learner: Learner) -> Dense:
    return next(module for module in learner.model.modules() if isinstance(module, Dense))


def _path(directory: Path, rank: int) -> Path:
    return directory / f"touched-{rank:05d}.pt"


def _listen(tables: dict[str, Table]) -> list[RemovableHandle]:
    """Have every table told of its look-ups, if it asks, and of rows that change hands."""
    kernels: dict[nn.Module, list[Noted]] = {}
    for table in tables.values():
        if isinstance(table, Noted):
            kernels.setdefault(table.table.kernel, []).append(table)
        if table.table.vocabulary is not None:
            table.table.vocabulary.moving = table.moving
    return [k.register_forward_pre_hook(partial(_looked_up, of)) for k, of in kernels.items()]


@torch.no_grad()
def _looked_up(tables: list[Noted], kernel: nn.Module, arguments: Any) -> None:
    if not kernel.training:
        return
    features: KeyedJaggedTensor = arguments[0]
    places = {name: place for place, name in enumerate(features.keys())}
    bags = features.values().split(features.length_per_key())
    for touched in tables:
        own = [bags[places[name]] for name in touched.table.features]
        touched.seen(own[0] if len(own) == 1 else torch.cat(own))
