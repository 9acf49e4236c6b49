"""DCNv2's low-rank crosses with half the memory traffic of their textbook form.

Legend: B impressions, I inputs, R rank of a cross.
"""

from __future__ import annotations

from typing import Any

import torch
from torchrec.modules.crossnet import LowRankCrossNet

from trainers.products import product, product_added


class CrossNet(LowRankCrossNet):
    """TorchRec's ``LowRankCrossNet`` and its part of the logit.

    Wang et al. 2021: x ← x₀ ∘ (W V x + b) + x, layer after layer. On a CPU reading and
    writing [B, I] takes as long as the products do, so additions are done within other
    operations, and the gradient is written out.
    """

    def logit(self, x_BI: torch.Tensor, weight_I: torch.Tensor) -> torch.Tensor:
        """``forward(x_BI) @ weight_I``, [B]."""
        layers = zip(self.W_kernels, self.V_kernels, self.bias, strict=True)
        result: torch.Tensor = _Crosses.apply(
            x_BI, weight_I, *(p for layer in layers for p in layer)
        )
        return result


class _Crosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x0_BI: torch.Tensor, weight_I: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        x_BI, saved = x0_BI, [x0_BI, weight_I, *parameters]
        for w_IR, v_RI, bias_I in _layers(parameters):
            low_BR = product(x_BI, v_RI.t())
            cross_BI = product(low_BR, w_IR.t(), bias_I)
            saved += [x_BI, low_BR, cross_BI]
            x_BI = torch.addcmul(x_BI, x0_BI, cross_BI)
        ctx.save_for_backward(*saved, x_BI)
        ctx.count = len(parameters)
        return x_BI @ weight_I

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x0_BI, weight_I, *rest, last_BI = ctx.saved_tensors
        layers = zip(_layers(rest[: ctx.count]), _layers(rest[ctx.count :]), strict=True)
        to_logit_B = gradients[0]
        grad_BI = to_logit_B[:, None] * weight_I
        to_x0_BI: torch.Tensor | None = None
        found: list[torch.Tensor] = []
        for (w_IR, v_RI, _), (x_BI, low_BR, cross_BI) in reversed(list(layers)):
            to_cross_BI = grad_BI * x0_BI
            if to_x0_BI is None:
                to_x0_BI = grad_BI * cross_BI
            else:
                to_x0_BI.addcmul_(grad_BI, cross_BI)
            to_low_BR = product(to_cross_BI, w_IR)
            to_w_IR = product(low_BR.t(), to_cross_BI).t()
            found = [to_w_IR, product(to_low_BR.t(), x_BI), to_cross_BI.sum(0), *found]
            grad_BI = product_added(grad_BI, to_low_BR, v_RI)
        to_x_BI = grad_BI if to_x0_BI is None else grad_BI.add_(to_x0_BI)
        return to_x_BI, last_BI.t() @ to_logit_B, *found


def _layers(tensors: Any) -> list[tuple[Any, Any, Any]]:
    return list(zip(tensors[::3], tensors[1::3], tensors[2::3], strict=True))
