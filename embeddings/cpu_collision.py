"""What TorchRec's managed collision lacks on CPU, where it was made for GPUs.

Stock, the two sharders of a managed collection have no sharding type in common on
CPU, and the kernel that clears an evicted row exists for CUDA only. GPUs take the
stock path and never come here.
"""

from __future__ import annotations

import types

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.mc_embeddingbag import (
    ManagedCollisionEmbeddingBagCollectionSharder,
    ShardedManagedCollisionEmbeddingBagCollection,
)
from torchrec.distributed.types import ShardingType


class RowWiseOnCpu(EmbeddingBagCollectionSharder):
    """Offers row-wise sharding, which works on CPU though the stock sharder hides it."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return [ShardingType.ROW_WISE.value]


class ManagedOnCpu(ManagedCollisionEmbeddingBagCollectionSharder):
    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        return [EmbeddingComputeKernel.FUSED.value]


def clear_rows_on_cpu(model: nn.Module) -> None:
    """Give every managed table of a sharded ``model`` a way to clear evicted rows."""
    for module in model.modules():
        if isinstance(module, ShardedManagedCollisionEmbeddingBagCollection):
            for tables, _ in module._table_to_tbe_and_index.values():
                tables.reset_embedding_weight_momentum = types.MethodType(_clear_rows, tables)


@torch.no_grad()
def _clear_rows(
    self: SplitTableBatchedEmbeddingBagsCodegen,
    pruned_indices: torch.Tensor,
    pruned_indices_offsets: torch.Tensor,
    logical_table_ids: torch.Tensor,
    buffer_ids: torch.Tensor,
) -> None:
    """Zero weights and optimizer state of rows: fbgemm's ``reset_weight_momentum``.

    Args:
        pruned_indices: rows, those of all tables one after another.
        pruned_indices_offsets: where each table's rows begin and end in them.
        logical_table_ids: the tables, by their position in ``self``.
    """
    weights = self.split_embedding_weights()
    states = self.split_optimizer_states()
    ends = pruned_indices_offsets.tolist()
    for table, start, end in zip(logical_table_ids.tolist(), ends[:-1], ends[1:], strict=True):
        rows = pruned_indices[start:end]
        weights[table][rows] = 0.0
        for state in states[table]:
            state[rows] = 0.0
