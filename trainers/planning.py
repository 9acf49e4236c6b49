"""Which table goes where, planned without any of the devices being there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ParameterSharding, ShardingPlan

from embeddings.tables import (
    CACHED_SHARE,
    RESERVED_SHARE,
    TableSpec,
    planner,
    require_buckets_divide,
    sharders,
    table_specs,
)
from errors import UserError
from streaming.impressions import ImpressionSchema
from trainers.model import TrainTask
from trainers.settings import LevelConfig

GIB = 1024**3
WEIGHT_BYTES = 4
MOMENTUM_BYTES = 4
"""Row-wise Adagrad keeps one number a row."""
VOCABULARY_BYTES = 4 * 8
"""A managed row's id, row number, use count and last use."""


@dataclass(frozen=True)
class Machine:
    """What there is to fill: ``ranks`` devices, each with its share of its host's memory."""

    device: str  # cpu or cuda
    ranks: int
    device_bytes: int  # of each GPU; 0 on cpu
    host_bytes: int  # of each host
    ranks_a_host: int

    @property
    def host_bytes_a_rank(self) -> int:
        return self.host_bytes // self.ranks_a_host

    @property
    def usable_device_bytes(self) -> int:
        """Of all GPUs, for tables."""
        return int(self.ranks * self.device_bytes * (1 - RESERVED_SHARE))

    @property
    def usable_host_bytes(self) -> int:
        """Of all hosts, for tables."""
        return int(self.ranks * self.host_bytes_a_rank * (1 - RESERVED_SHARE))


@dataclass(frozen=True)
class PlannedTable:
    name: str
    rows: int
    dim: int
    sharding: str
    kernel: str
    device_bytes: dict[int, int]  # rank to the bytes in its device's memory (on cpu: the host's)
    host_bytes: dict[int, int]  # and in its host's, behind a cache on the device


@dataclass(frozen=True)
class Plan:
    machine: Machine
    tables: tuple[PlannedTable, ...]

    def bytes_of(self, rank: int) -> tuple[int, int]:
        """Bytes that the tables take on ``rank``, in its device and behind a cache in its host."""
        return (
            sum(table.device_bytes.get(rank, 0) for table in self.tables),
            sum(table.host_bytes.get(rank, 0) for table in self.tables),
        )


def plan_tables(config: LevelConfig, schema: ImpressionSchema, machine: Machine) -> Plan:
    """What :func:`sharding_plan` says for ``machine``, in bytes.

    Raises:
        UserError: the tables do not fit, with what they need and what there is.
    """
    with torch.random.fork_rng(devices=[]):
        task = TrainTask(
            schema, config.model, torch.device("cpu"), table_device=torch.device("meta")
        )
    plan = sharding_plan(task, config, schema, machine)
    placed = {name: where for module in plan.plan.values() for name, where in _items(module)}
    specs = table_specs(schema, config.model)
    return Plan(machine, tuple(_table(spec, placed[spec.name], machine) for spec in specs))


def sharding_plan(
    task: TrainTask,
    config: LevelConfig,
    schema: ImpressionSchema,
    machine: Machine,
    group: dist.ProcessGroup | None = None,
) -> ShardingPlan:
    """Run TorchRec's planner for ``machine``; with a ``group``, all its ranks get rank 0's plan.

    Raises:
        UserError: the tables do not fit, or the ranks do not divide ``id_buckets``.
    """
    require_buckets_divide(config.model, machine.ranks)
    specs = table_specs(schema, config.model)
    topology = _topology(machine, sum(map(vocabulary_bytes, specs)) // machine.ranks)
    batch_size = max(1, config.batch_size // machine.ranks)
    chosen = planner(specs, topology, batch_size)
    kinds = sharders(machine.device, config.optimizer)
    try:
        if group is None:
            return chosen.plan(task, kinds)
        return chosen.collective_plan(task, kinds, group)
    except PlannerError as error:
        raise UserError(_refusal(specs, machine)) from error


def _items(module: Any) -> list[tuple[str, ParameterSharding]]:
    return list(module.items())


def _topology(machine: Machine, taken: int) -> Topology:
    # Not zero, which would stand for the planner's own idea of a machine.
    if machine.device == "cuda":
        caps = {"hbm_cap": max(1, machine.device_bytes - taken)}
        caps["ddr_cap"] = machine.host_bytes_a_rank
    else:
        caps = {"ddr_cap": max(1, machine.host_bytes_a_rank - taken)}
    return Topology(
        world_size=machine.ranks,
        local_world_size=machine.ranks_a_host,
        compute_device=machine.device,
        **caps,
    )


def weight_bytes(spec: TableSpec) -> int:
    """Weights and optimizer state of the whole table."""
    return spec.rows * (spec.dim * WEIGHT_BYTES + MOMENTUM_BYTES)


def vocabulary_bytes(spec: TableSpec) -> int:
    """What finds an id's row; always in the device's own memory."""
    return spec.rows * VOCABULARY_BYTES if spec.managed else 0


def table_bytes(spec: TableSpec) -> int:
    return weight_bytes(spec) + vocabulary_bytes(spec)


def _table(spec: TableSpec, where: ParameterSharding, machine: Machine) -> PlannedTable:
    cached = where.compute_kernel == EmbeddingComputeKernel.FUSED_UVM_CACHING.value
    assert where.sharding_spec is not None
    device_bytes: dict[int, int] = {}
    host_bytes: dict[int, int] = {}
    for shard in where.sharding_spec.shards:
        rank, share = shard.placement.rank(), shard.shard_sizes[0] / spec.rows
        weights = weight_bytes(spec) * share
        near = weights * (CACHED_SHARE if cached else 1.0) + vocabulary_bytes(spec) * share
        device_bytes[rank] = device_bytes.get(rank, 0) + int(near)
        host_bytes[rank] = host_bytes.get(rank, 0) + (int(weights) if cached else 0)
    return PlannedTable(
        name=spec.name,
        rows=spec.rows,
        dim=spec.dim,
        sharding=where.sharding_type,
        kernel=where.compute_kernel,
        device_bytes=device_bytes,
        host_bytes=host_bytes,
    )


def _refusal(specs: tuple[TableSpec, ...], machine: Machine) -> str:
    largest = max(specs, key=table_bytes)
    needs = (
        f"the tables do not fit: they need {_gib(sum(map(table_bytes, specs)))} (largest: "
        f"'{largest.name}', {_gib(table_bytes(largest))} for {largest.rows:,} rows)"
    )
    ways = f"fewer rows (model.tables.{largest.name}.rows) or a smaller model.dim"
    host = _gib(machine.usable_host_bytes)
    if machine.device == "cpu":
        return f"{needs}, and this host has {host} to give; use a larger host, {ways}"
    least = sum(int(weight_bytes(s) * CACHED_SHARE) + vocabulary_bytes(s) for s in specs)
    gpus = f"{machine.ranks} x {_gib(machine.device_bytes)} of GPU memory"
    return (
        f"{needs}, at least {_gib(least)} of it on GPUs; {gpus} have "
        f"{_gib(machine.usable_device_bytes)} to give and their hosts {host}; use more GPUs "
        f"(--gpus), more host memory (--host-memory-gib), {ways}"
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
