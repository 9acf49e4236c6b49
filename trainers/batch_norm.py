"""BatchNorm over the impressions of all ranks, on any device.

Legend: B impressions, F features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too: every rank's loss depends on every input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class BatchNorm(nn.Module):
    """``nn.BatchNorm1d`` with sample weights, over ``world_size`` ranks.

    Ioffe and Szegedy 2015. With weights w the batch's statistics are
    mean = Σwx / Σw and var = Σw(x - mean)² / Σw, sums going over all ranks, and the
    running variance takes var · Σw / (Σw - 1). On one rank with all weights 1 it
    gives the same bits as ``nn.BatchNorm1d``.

    ``nn.SyncBatchNorm`` refuses CPU tensors and knows no weights, which padding
    rows need.
    """

    def __init__(
        self, features: int, momentum: float, world_size: int = 1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.momentum, self.world_size, self.eps = momentum, world_size, eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    @torch.no_grad()
    def reset(self) -> None:
        """Begin anew: statistics and affine terms as when it was made."""
        for zeros_F in (self.running_mean, self.bias):
            zeros_F.zero_()
        for ones_F in (self.running_var, self.weight):
            ones_F.fill_(1.0)

    def forward(self, x_BF: torch.Tensor, weight_B: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise by this batch's statistics and add them to the running ones.

        ``weight_B``: None says that every weight is 1, on this rank as on the others.
        """
        if self.world_size == 1 and weight_B is None:
            return self._normalise(x_BF, learning=True)
        if weight_B is None:
            weight_B = x_BF.new_ones(len(x_BF))
        # Sums are taken around the running mean: without that shift Σx² - (Σx)²
        # loses all its digits when the mean is large beside the deviation.
        shift_F = self.running_mean.clone()
        shifted_BF = x_BF - shift_F
        weighted_BF = shifted_BF * weight_B[:, None]
        sums = torch.cat(
            [weighted_BF.sum(0), (weighted_BF * shifted_BF).sum(0), weight_B.sum()[None]]
        )
        if self.world_size > 1:
            sums = _SumOverRanks.apply(sums)
        features = len(shift_F)
        count = sums[-1].clamp_min(1.0)
        mean_F = sums[:features] / count
        var_F = (sums[features:-1] / count - mean_F * mean_F).clamp_min(0.0)
        self._remember(mean_F.detach() + shift_F, var_F.detach(), count.detach())
        scale_F = self.weight * torch.rsqrt(var_F + self.eps)
        return (shifted_BF - mean_F) * scale_F + self.bias

    def serve(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Normalise by the running statistics, as serving does; nothing is recorded."""
        return self._normalise(x_BF, learning=False)

    def _normalise(self, x_BF: torch.Tensor, learning: bool) -> torch.Tensor:
        return functional.batch_norm(
            x_BF,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            learning,
            self.momentum,
            self.eps,
        )

    @torch.no_grad()
    def _remember(self, mean_F: torch.Tensor, var_F: torch.Tensor, count: torch.Tensor) -> None:
        unbiased_F = var_F * (count / (count - 1.0).clamp_min(1.0))
        self.running_mean.lerp_(mean_F, self.momentum)
        self.running_var.lerp_(unbiased_F, self.momentum)


class DomainNorms(nn.Module):
    """A :class:`BatchNorm` for each of ``domains``, on one rank; K rows are of one domain."""

    def __init__(self, features: int, momentum: float, domains: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(BatchNorm(features, momentum) for _ in range(domains))

    def forward(
        self,
        x_BF: torch.Tensor,
        domain_B: torch.Tensor,
        weight_B: torch.Tensor | None = None,
        *,
        serving: bool = False,
    ) -> torch.Tensor:
        """Each row by its domain's statistics, of this batch or, for ``serving``, running.

        A lone row has no statistics; it is normalised by the running ones.
        """
        result_BF = torch.zeros_like(x_BF)
        for domain, norm in enumerate(self.norms):
            assert isinstance(norm, BatchNorm)
            rows_K = (domain_B == domain).nonzero().squeeze(1)
            x_KF = x_BF.index_select(0, rows_K)
            if serving or len(rows_K) < 2:
                x_KF = norm.serve(x_KF)
            else:
                x_KF = norm(x_KF, None if weight_B is None else weight_B[rows_K])
            result_BF = result_BF.index_copy(0, rows_K, x_KF)
        return result_BF
