"""This rank's part of every embedding table: its live weights and who owns its rows.

Legend: N rows of a table on this rank, D width, K ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.mc_embeddingbag import ShardedManagedCollisionEmbeddingBagCollection

from embeddings.vocabulary import IdInit, ManagedIds


@dataclass(frozen=True)
class LocalTable:
    """Rows ``first_row`` and on of a table; with a vocabulary their owners are ids."""

    name: str
    weights_ND: torch.Tensor  # live
    momentum_N: torch.Tensor  # live, of row-wise Adagrad
    first_row: int
    kernel: nn.Module  # what looks this table up, given a jagged tensor of this rank's rows
    features: tuple[str, ...]
    vocabulary: ManagedIds | None
    init: IdInit | None
    cached: bool  # its rows live behind a GPU's cache: ``weights_ND`` lags

    def keys_of(self, rows: torch.Tensor) -> torch.Tensor:
        """What names ``rows`` on any rank: ids, or row numbers over all ranks."""
        if self.vocabulary is None:
            return rows + self.first_row
        return self.vocabulary.ids_of(rows)

    def first_vectors(self, ids_K: torch.Tensor) -> torch.Tensor:
        """[K, D] what managed ids start from."""
        assert self.init is not None
        return self.init.vectors(ids_K, self.weights_ND.shape[1])


def local_tables(model: nn.Module) -> dict[str, LocalTable]:
    """Table name to this rank's part of it, in a sharded ``model``."""
    found: dict[str, LocalTable] = {}
    inner: set[int] = set()
    for module in model.modules():
        if isinstance(module, ShardedManagedCollisionEmbeddingBagCollection):
            inner.add(id(module._embedding_module))
            vocabularies = module._managed_collision_collection._managed_collision_modules
            found |= {t.name: t for t in _tables(module._embedding_module, dict(vocabularies))}
        elif isinstance(module, ShardedEmbeddingBagCollection) and id(module) not in inner:
            found |= {t.name: t for t in _tables(module, {})}
    return found


def _tables(
    module: ShardedEmbeddingBagCollection, vocabularies: dict[str, Any]
) -> Iterator[LocalTable]:
    state = module.state_dict()
    cached_kernel = EmbeddingComputeKernel.FUSED_UVM_CACHING.value
    for lookup in module._lookups:
        for kernel in lookup._emb_modules:
            momenta = kernel.emb_module.split_optimizer_states()
            for config, (momentum_N, *_) in zip(
                kernel.config.embedding_tables, momenta, strict=True
            ):
                weight = state[f"embedding_bags.{config.name}.weight"]
                assert isinstance(weight, ShardedTensor)
                (shard,) = weight.local_shards()
                init = module._table_name_to_config[config.name].init_fn
                yield LocalTable(
                    name=config.name,
                    weights_ND=shard.tensor.detach(),
                    momentum_N=momentum_N,
                    first_row=shard.metadata.shard_offsets[0],
                    kernel=kernel,
                    features=tuple(config.feature_names),
                    vocabulary=vocabularies.get(config.name),
                    init=init if isinstance(init, IdInit) else None,
                    cached=config.compute_kernel.value == cached_kernel,
                )
