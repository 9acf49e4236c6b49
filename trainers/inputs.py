"""From pooled embeddings to the dense part's inputs, in one pass each way.

Legend: B impressions, F sparse features, D embedding width, X = F x D, R other inputs,
I = X + R, P inner products.
"""

from __future__ import annotations

from typing import Any

import torch

Means = list[tuple[int, torch.Tensor]]
"""Features (by position) whose sums become means, with 1 / length of each bag [B, 1]."""


def dense_inputs(
    pooled_BX: torch.Tensor,
    others_BR: torch.Tensor,
    means: Means,
    pairs: list[tuple[int, int]],
    dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [B, I] and the inner products [B, P] of ``pairs`` of features.

    Only ``pooled_BX`` gets a gradient. What autograd would make of slices, products
    and concatenation writes [B, X] a dozen times; this does so once.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _DenseInputs.apply(
        pooled_BX, others_BR, means, pairs, dim
    )
    return result


class _DenseInputs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pooled_BX: torch.Tensor,
        others_BR: torch.Tensor,
        means: Means,
        pairs: list[tuple[int, int]],
        dim: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x_BI = torch.cat([pooled_BX, others_BR], 1)
        for feature, share_B1 in means:
            _columns(x_BI, feature, dim).mul_(share_B1)
        product_BP = x_BI.new_empty(len(x_BI), len(pairs))
        for p, (a, b) in enumerate(pairs):
            product = _columns(x_BI, a, dim) * _columns(x_BI, b, dim)
            torch.sum(product, 1, out=product_BP[:, p])
        ctx.save_for_backward(x_BI)
        ctx.means, ctx.pairs, ctx.dim, ctx.width = means, pairs, dim, pooled_BX.shape[1]
        return x_BI, product_BP

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_x_BI, to_product_BP = gradients
        (x_BI,), dim = ctx.saved_tensors, ctx.dim
        grad_BX = to_x_BI[:, : ctx.width].clone(memory_format=torch.contiguous_format)
        for p, (a, b) in enumerate(ctx.pairs):
            to_product_B1 = to_product_BP[:, p : p + 1]
            for one, other in ((a, b), (b, a)):
                _columns(grad_BX, one, dim).addcmul_(_columns(x_BI, other, dim), to_product_B1)
        for feature, share_B1 in ctx.means:
            _columns(grad_BX, feature, dim).mul_(share_B1)
        return grad_BX, None, None, None, None


def _columns(x_BI: torch.Tensor, feature: int, dim: int) -> torch.Tensor:
    return x_BI[:, feature * dim : (feature + 1) * dim]
