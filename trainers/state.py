"""A learner's state: copied, written, read, and dealt out to another number of ranks.

The state is one flat dictionary, name to tensor, of what the learner lives on:
reading a checkpoint fills these tensors in place. In a checkpoint's directory:

    .metadata, *.distcp     tables, vocabularies, dense weights and both optimizers, by
                            torch.distributed.checkpoint; every rank writes its shards
    hidden-00000.pt ...     of each rank, what no state dict holds (see `ManagedIds`)
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed._state_dict_utils import _copy_state_dict, _create_cpu_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.serialization import set_crc32_options
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from embeddings.resharding import IDS, ROWS, Share, gather_history, place, take_share
from trainers.direct_file import DirectFile

State = dict[str, torch.Tensor | ShardedTensor]
Hidden = dict[str, Any]

_VOCABULARY = "model.managed._managed_collision_collection._managed_collision_modules"
_TABLE = "managed._embedding_module.embedding_bags"


@dataclass(frozen=True)
class Snapshot:
    """A copy in host memory; training goes on without touching it."""

    state: State
    hidden: Hidden
    rank: int
    world_size: int


def flat_state(model: DistributedModelParallel, optimizer: CombinedOptimizer) -> State:
    """``model.<name>`` and ``optimizer.<weight>.<slot>``: the live tensors, not copies."""
    state: State = {}
    for name, tensor in model.state_dict().items():
        # Says how rows are cut into ranks: of this run, not of the one that wrote.
        if not name.endswith("._output_segments_tensor"):
            state[f"model.{name}"] = tensor
    for weight, slots in optimizer.state_dict()["state"].items():
        for slot, tensor in slots.items():
            state[f"optimizer.{weight}.{slot}"] = tensor
    return state


def copy_to_host(state: State, into: State | None = None) -> State:
    """The same tensors, sharded ones included, in memory of their own.

    ``into``: an earlier copy, whose memory is used again.
    """
    copied = _host_memory(state) if into is None else into
    _copy_state_dict(state, copied, non_blocking=False)
    return copied


def _host_memory(state: State) -> State:
    """Tensors of the same form, unfilled."""
    others = _create_cpu_state_dict({n: t for n, t in state.items() if not _on_host(t)})
    return {n: _unfilled(t) if _on_host(t) else others[n] for n, t in state.items()}


def _on_host(tensor: torch.Tensor | ShardedTensor) -> bool:
    shards = tensor.local_shards() if isinstance(tensor, ShardedTensor) else []
    return any(shard.tensor.device.type == "cpu" for shard in shards)


def _unfilled(tensor: torch.Tensor | ShardedTensor) -> ShardedTensor:
    """PyTorch's own helper copies all the memory behind a shard, to drop it at once. On CPU
    tables of a kind lie in one piece, so sixteen of them took ten times their bytes."""
    assert isinstance(tensor, ShardedTensor)
    shards = [Shard(torch.empty_like(s.tensor), s.metadata) for s in tensor.local_shards()]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, copy.deepcopy(tensor.metadata()), process_group=tensor._process_group
    )


class _DirectFiles(FileSystem):
    """Writes past the page cache and takes the checksums of what it writes."""

    def __init__(self) -> None:
        self.checksums: dict[str, str] = {}

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        if mode != "wb":
            raise ValueError(f"{path} is for writing")
        file = DirectFile(Path(path))
        with io.BufferedWriter(file) as stream:  # a tensor's description comes in many pieces
            yield stream
        self.checksums[Path(path).name] = file.checksum

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.checksums[Path(new_path).name] = self.checksums.pop(Path(path).name)


class _Writer(FileSystemWriter):
    """Says neither where nor when it wrote: the same state is the same bytes."""

    def __init__(self, directory: Path, files: FileSystem) -> None:
        super().__init__(directory, thread_count=1)
        self.fs = files

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


def write_state(
    snapshot: Snapshot,
    directory: Path,
    process_group: dist.ProcessGroup | None = None,
    *,
    direct: bool = False,
) -> dict[str, str]:
    """Write this rank's part of ``snapshot`` into ``directory``, which exists.

    With several ranks all of them must call this, over a gloo ``process_group`` that
    nothing else uses meanwhile.

    Args:
        direct: past the system's page cache, as nobody is to read it soon.

    Returns:
        checksums of files by name, as far as they were taken; see `trainers.checkpoint.seal`.

    Raises:
        OSError: the disk is full or not writable.
        ValueError: a weight is not finite: the state is not worth keeping.
    """
    for name, tensor in snapshot.state.items():
        _require_finite(name, tensor)
    # A checkpoint's manifest holds a checksum of every file: the archives need none within.
    set_crc32_options(False)
    files = _DirectFiles() if direct else FileSystem()
    try:
        save(
            snapshot.state,
            storage_writer=_Writer(directory, files),
            process_group=process_group,
            no_dist=snapshot.world_size == 1,
        )
        torch.save(snapshot.hidden, _hidden_path(directory, snapshot.rank))
    except CheckpointException as error:
        reasons = "; ".join(f"rank {rank}: {why[0]}" for rank, why in error.failures.items())
        raise OSError(f"could not write the state: {reasons}") from error
    except RuntimeError as error:
        raise OSError(f"could not write the state: {error}") from error
    return files.checksums if isinstance(files, _DirectFiles) else {}


def _require_finite(name: str, tensor: torch.Tensor | ShardedTensor) -> None:
    parts = [tensor]
    if isinstance(tensor, ShardedTensor):
        parts = [shard.tensor for shard in tensor.local_shards()]
    if not all(_is_finite(part) for part in parts if part.is_floating_point()):
        raise ValueError(f"{name} is not finite: the model diverged")


def _is_finite(tensor: torch.Tensor) -> bool:
    # A sum reads memory once; only one that is not finite, perhaps by overflow, asks for more.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def read_state(state: State, directory: Path, rank: int, world_size: int) -> Hidden:
    """Fill the tensors of ``state`` from ``directory``; return this rank's hidden state.

    Every rank must call this. The number of ranks may be another than the writer's.
    """
    hidden = _read_hidden(directory)
    if len(hidden) == world_size:
        _fill(state, directory, world_size)
        return hidden[rank]
    vocabularies: dict[str, Hidden] = {}
    rest = dict(state)
    for table in hidden[0]["vocabularies"]:
        share = _deal_table(rest, directory, table, rank, world_size)
        vocabularies[table] = _deal_hidden(hidden, table, rank, world_size, share)
    _fill(rest, directory, world_size)
    return {**hidden[rank % len(hidden)], "world_size": world_size, "vocabularies": vocabularies}


def _deal_table(rest: State, directory: Path, table: str, rank: int, world_size: int) -> Share:
    """Fill a managed table's tensors with what falls to this rank, taking them out of ``rest``.

    Reads them as a whole, one after another: a rank needs host memory for one table.
    """
    buffers = {
        name.removeprefix(f"{_VOCABULARY}.{table}."): _local(rest.pop(name))
        for name in list(rest)
        if name.startswith(f"{_VOCABULARY}.{table}.") and isinstance(rest[name], ShardedTensor)
    }
    old = {
        name: _read_whole(directory, f"{_VOCABULARY}.{table}.{name}", len(local) * world_size)
        for name, local in buffers.items()
    }
    score_N = old["_mch_counts"] if "_mch_counts" in old else old["_mch_last_access_iter"]
    share = take_share(old[IDS], old[ROWS], score_N, rank, world_size)
    for name, local_M in buffers.items():
        local_M.copy_(place(share, old[name], len(local_M), name))
    for name in (f"model.{_TABLE}.{table}.weight", *_slots(rest, table)):
        local_MD = _local(rest.pop(name))
        whole_ND = _read_whole(directory, name, len(local_MD) * world_size, *local_MD.shape[1:])
        local_MD.zero_()
        local_MD[: len(share.rows_K)] = whole_ND[share.rows_K].to(local_MD)
    return share


def _slots(state: State, table: str) -> list[str]:
    """Names of the optimizer's tensors for a managed ``table``."""
    return [name for name in state if name.startswith(f"optimizer.{_TABLE}.{table}.weight.")]


def _local(tensor: torch.Tensor | ShardedTensor) -> torch.Tensor:
    """This rank's rows of a row-wise sharded tensor, alive."""
    assert isinstance(tensor, ShardedTensor)
    return tensor.local_shards()[0].tensor.detach()


def _read_whole(directory: Path, name: str, *size: int) -> torch.Tensor:
    reader = FileSystemReader(directory)
    dtype = reader.read_metadata().state_dict_metadata[name].properties.dtype  # type: ignore[union-attr]
    whole = torch.empty(size, dtype=dtype)
    load({name: whole}, storage_reader=reader, no_dist=True)
    return whole


def _deal_hidden(
    hidden: list[Hidden], table: str, rank: int, world_size: int, share: Share
) -> Hidden:
    then = [of_rank["vocabularies"][table] for of_rank in hidden]
    totals = {
        name: sum(of_rank[name] for of_rank in then) if rank == 0 else 0
        for name in ("admitted_total", "evicted_total")
    }
    totals["evicted_total"] += share.left_out
    history = gather_history([of_rank["history"] for of_rank in then], rank, world_size)
    # Ranks own ascending ranges of ids: one after another they are in order.
    waiting = gather_history([of_rank.get("waiting", {}) for of_rank in then], rank, world_size)
    return {**then[0], **totals, "history": history, "waiting": waiting}


def _fill(state: State, directory: Path, world_size: int) -> None:
    load(state, storage_reader=FileSystemReader(directory), no_dist=world_size == 1)


def _hidden_path(directory: Path, rank: int) -> Path:
    return directory / f"hidden-{rank:05d}.pt"


def _read_hidden(directory: Path) -> list[Hidden]:
    """The hidden state of every rank that wrote ``directory``."""
    first: Hidden = torch.load(_hidden_path(directory, 0), weights_only=True)
    others = range(1, first["world_size"])
    return [first] + [torch.load(_hidden_path(directory, r), weights_only=True) for r in others]
