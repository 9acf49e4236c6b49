"""Embedding tables from the schema, and how they are sharded.

Ids that grow without bound get managed tables (see `embeddings.vocabulary`),
categories and whatever is configured as ``hashed`` a plain one. Every table pools
its bags by sum, since features share tables; the model divides a multi-valued
feature's sum by its length.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.mc_embeddingbag import (
    ManagedCollisionEmbeddingBagCollectionSharder,
    ShardedManagedCollisionEmbeddingBagCollection,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams, ModuleSharder, ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import ManagedCollisionCollection

from embeddings.cpu_collision import ManagedOnCpu, RowWiseOnCpu
from embeddings.ids import ID_SPACE
from embeddings.vocabulary import IdInit, ManagedIds, RowInit, eviction_policy
from errors import UserError
from streaming.impressions import ImpressionSchema
from trainers.settings import ModelConfig, OptimizerConfig, TableConfig

EXPECTED_BAG = 8.0
"""Values that the planner expects in a multi-valued feature's bag."""
CACHED_SHARE = 0.2
"""Share of a table's rows that a GPU caches when the rest lives in host memory."""
RESERVED_SHARE = 0.15
"""Share of every memory that the planner leaves to the dense part, batches and activations."""


@dataclass(frozen=True)
class TableSpec:
    """One table: ``rows`` x ``dim`` float32, read by ``features``."""

    name: str
    dim: int
    config: TableConfig
    features: tuple[str, ...]
    pooling: tuple[float, ...]  # values that the planner expects in each feature's bag
    managed: bool

    @property
    def rows(self) -> int:
        return self.config.rows


def table_specs(schema: ImpressionSchema, model: ModelConfig) -> tuple[TableSpec, ...]:
    """The tables that ``schema`` asks for, in the order of their first feature."""
    tables: dict[str, list[Any]] = {}
    for feature in schema.sparse:
        tables.setdefault(feature.table_name, []).append(feature)
    specs = []
    for name, features in tables.items():
        is_id = features[0].kind == "id"
        config = model.tables.get(name, model.ids if is_id else model.categories)
        specs.append(
            TableSpec(
                name=name,
                dim=model.dim,
                config=config,
                features=tuple(f.name for f in features),
                pooling=tuple(EXPECTED_BAG if f.multi else 1.0 for f in features),
                managed=is_id and config.vocabulary == "managed",
            )
        )
    return tuple(specs)


def managed_collection(
    specs: tuple[TableSpec, ...], model: ModelConfig, device: torch.device
) -> ManagedCollisionEmbeddingBagCollection | None:
    managed = [spec for spec in specs if spec.managed]
    if not managed:
        return None
    configs = [_bag_config(spec, IdInit(_salt(spec.name))) for spec in managed]
    vocabularies = {
        spec.name: ManagedIds(
            zch_size=spec.rows,
            device=device,
            eviction_policy=eviction_policy(spec.config.eviction),
            eviction_interval=model.eviction_interval,
            input_hash_size=ID_SPACE,
            name=spec.name,
            buckets=model.id_buckets,
        )
        for spec in managed
    }
    return ManagedCollisionEmbeddingBagCollection(
        EmbeddingBagCollection(device=device, tables=configs),
        ManagedCollisionCollection(vocabularies, configs, need_preprocess=False),
    )


def hashed_collection(
    specs: tuple[TableSpec, ...], device: torch.device
) -> EmbeddingBagCollection | None:
    hashed = [spec for spec in specs if not spec.managed]
    if not hashed:
        return None
    configs = [_bag_config(spec, RowInit(_salt(spec.name))) for spec in hashed]
    return EmbeddingBagCollection(device=device, tables=configs)


def _bag_config(spec: TableSpec, init: IdInit | RowInit) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=spec.name,
        num_embeddings=spec.rows,
        embedding_dim=spec.dim,
        feature_names=list(spec.features),
        pooling=PoolingType.SUM,
        init_fn=init,
    )


def _salt(name: str) -> int:
    return zlib.crc32(name.encode())


def bind_vocabularies(model: nn.Module) -> dict[str, ManagedIds]:
    """Table name to this rank's vocabulary, in a sharded ``model``.

    From here on a new id's row starts from the id's own vector.
    """
    found: dict[str, ManagedIds] = {}
    for module in model.modules():
        if isinstance(module, ShardedManagedCollisionEmbeddingBagCollection):
            configs = module._embedding_module._table_name_to_config
            vocabularies = module._managed_collision_collection._managed_collision_modules
            for name, vocabulary in vocabularies.items():
                configs[name].init_fn.vocabulary = vocabulary
                found[name] = vocabulary
    return found


def sharders(kind: str, optimizer: OptimizerConfig) -> list[ModuleSharder[Any]]:
    """Sharders for a device ``kind``, with row-wise Adagrad fused into the backward pass."""
    fused = {
        "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        "learning_rate": optimizer.table_learning_rate,
        "eps": 1e-8,
    }
    if kind == "cpu":
        # The kernel there refuses a row that does not exist; the check before it would make it
        # row 0, with a line in the log, and takes half a millisecond of a step.
        fused["bounds_check_mode"] = BoundsCheckMode.NONE
    hashed = EmbeddingBagCollectionSharder(fused_params=fused)
    if kind == "cpu":
        return [ManagedOnCpu(ebc_sharder=RowWiseOnCpu(fused_params=fused)), hashed]
    return [ManagedCollisionEmbeddingBagCollectionSharder(fused_params=fused), hashed]


def constraints(specs: tuple[TableSpec, ...], kind: str) -> dict[str, ParameterConstraints]:
    """What the planner may choose from, by table.

    Column-wise sharding is left out: each piece of a row would keep a row-wise
    Adagrad of its own, and the result would depend on the number of ranks. So is
    data-parallel: it exposes no optimizer state to checkpoints.
    """
    kernels = [EmbeddingComputeKernel.FUSED.value]
    whole = [ShardingType.TABLE_WISE.value]
    if kind == "cuda":
        kernels.append(EmbeddingComputeKernel.FUSED_UVM_CACHING.value)
        whole += [ShardingType.ROW_WISE.value, ShardingType.TABLE_ROW_WISE.value]
    return {
        spec.name: ParameterConstraints(
            sharding_types=[ShardingType.ROW_WISE.value] if spec.managed else whole,
            compute_kernels=kernels,
            pooling_factors=list(spec.pooling),
            cache_params=CacheParams(load_factor=CACHED_SHARE) if kind == "cuda" else None,
        )
        for spec in specs
    }


def require_buckets_divide(model: ModelConfig, ranks: int) -> None:
    """Raise UserError unless the managed tables can be shared by ``ranks``."""
    if model.id_buckets % ranks:
        raise UserError(
            f"id_buckets = {model.id_buckets} is not a multiple of {ranks} ranks; choose one "
            "that every number of ranks to be used divides, before the first start"
        )


def planner(
    specs: tuple[TableSpec, ...], topology: Topology, batch_size: int
) -> EmbeddingShardingPlanner:
    """A planner for ``batch_size`` impressions a rank."""
    return EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        constraints=constraints(specs, topology.compute_device),
        storage_reservation=FixedPercentageStorageReservation(RESERVED_SHARE),
        debug=False,
    )
