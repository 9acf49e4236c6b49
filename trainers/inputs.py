"""From pooled embeddings to the dense part's inputs, in one pass each way.

Legend: B impressions, F sparse features, D embedding width, X = F x D, R other inputs,
I = X + R, P inner products, C columns of one of TorchRec's results.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torchrec.sparse.jagged_tensor import KeyedTensor

Means = list[tuple[int, torch.Tensor]]
"""Features (by position) whose sums become means, with 1 / length of each bag [B, 1]."""


class _Run(NamedTuple):
    """Features that stand side by side both in a result of TorchRec and in the schema."""

    result: int  # which one
    begin: int  # column
    end: int


class _Layout(NamedTuple):
    runs: tuple[_Run, ...]
    means: Means
    pairs: list[tuple[int, int]]
    dim: int


def dense_inputs(
    tables: list[KeyedTensor],
    names: list[str],
    others_BR: torch.Tensor,
    means: Means,
    pairs: list[tuple[int, int]],
    dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [B, I], features in the order of ``names``, and inner products [B, P] of ``pairs``.

    Sharding plans order the columns of ``tables`` as they like. What autograd would make
    of regrouping, slices, products and concatenation goes over [B, X] a dozen times; this
    does so once.
    """
    layout = _Layout(_runs(tables, names, dim), means, pairs, dim)
    pooled = [table.values() for table in tables]
    result: tuple[torch.Tensor, torch.Tensor] = _DenseInputs.apply(layout, others_BR, *pooled)
    return result


def _runs(tables: list[KeyedTensor], names: list[str], dim: int) -> tuple[_Run, ...]:
    place = {
        name: (result, position * dim)
        for result, table in enumerate(tables)
        for position, name in enumerate(table.keys())
    }
    runs: list[_Run] = []
    for result, begin in (place[name] for name in names):
        if runs and (runs[-1].result, runs[-1].end) == (result, begin):
            runs[-1] = runs[-1]._replace(end=begin + dim)
        else:
            runs.append(_Run(result, begin, begin + dim))
    return tuple(runs)


class _DenseInputs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: _Layout, others_BR: torch.Tensor, *pooled_BC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [pooled_BC[run.result][:, run.begin : run.end] for run in layout.runs]
        x_BI = torch.cat([*parts, others_BR], 1)
        for feature, share_B1 in layout.means:
            _columns(x_BI, feature, layout.dim).mul_(share_B1)
        product_BP = x_BI.new_empty(len(x_BI), len(layout.pairs))
        for p, (a, b) in enumerate(layout.pairs):
            product_BD = _columns(x_BI, a, layout.dim) * _columns(x_BI, b, layout.dim)
            torch.sum(product_BD, 1, out=product_BP[:, p])
        ctx.save_for_backward(x_BI)
        ctx.layout, ctx.widths = layout, [pooled.shape[1] for pooled in pooled_BC]
        return x_BI, product_BP

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_x_BI, to_product_BP = gradients
        (x_BI,), layout = ctx.saved_tensors, ctx.layout
        found = [x_BI.new_empty(len(x_BI), width) for width in ctx.widths]
        grad_BD: list[torch.Tensor] = []  # by feature
        for run in layout.runs:
            part = found[run.result][:, run.begin : run.end]
            start = len(grad_BD) * layout.dim
            part.copy_(to_x_BI[:, start : start + part.shape[1]])
            grad_BD += part.split(layout.dim, 1)
        for p, (a, b) in enumerate(layout.pairs):
            to_product_B1 = to_product_BP[:, p : p + 1]
            for one, other in ((a, b), (b, a)):
                grad_BD[one].addcmul_(_columns(x_BI, other, layout.dim), to_product_B1)
        for feature, share_B1 in layout.means:
            grad_BD[feature].mul_(share_B1)
        others = to_x_BI[:, len(grad_BD) * layout.dim :] if ctx.needs_input_grad[1] else None
        return None, others, *found


def _columns(x_BI: torch.Tensor, feature: int, dim: int) -> torch.Tensor:
    return x_BI[:, feature * dim : (feature + 1) * dim]
