"""DCNv2's low-rank crosses with a third of the memory traffic of their textbook form.

Two facts make up for what it reads and writes:

* Every cross multiplies x₀, so what layer l passes on is x₀ ∘ m with m = 1 + Σ (W V x + b)
  over the layers up to l. A product adds to m as it is made.
* The last layer is only needed for its part of the logit, w · x. As
  w · (x₀ ∘ (W z + b)) = z · ((w ∘ W)ᵀ x₀) + (w ∘ b) · x₀ with z = V x, it takes two
  products to [B, R] and never makes anything of [B, I].

Legend: B impressions, I inputs, R rank of a cross, Q = R + 1: the rank and a one, which
makes biases and the weights of the logit rows and columns of the products, J those of
several layers side by side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torchrec.modules.crossnet import LowRankCrossNet

from trainers.products import product, product_added


class CrossNet(LowRankCrossNet):
    """TorchRec's ``LowRankCrossNet`` and its part of the logit.

    Wang et al. 2021: x ← x₀ ∘ (W V x + b) + x, layer after layer. On a CPU reading and
    writing [B, I] takes as long as the products do, so the gradient is written out.
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
        *inner, (last_w_IR, last_v_RI, last_bias_I) = _threes(parameters)
        x_BI, factor_BI, saved = x0_BI, None, []
        for w_IR, v_RI, bias_I in inner:
            low_BQ = _and_one(product(x_BI, v_RI.t()))
            factor_BI = _factor(factor_BI, low_BQ, w_IR, bias_I)
            saved += [x_BI, low_BQ, factor_BI]
            x_BI = x0_BI * factor_BI
        low_BQ = _and_one(product(x_BI, last_v_RI.t()))
        up_BQ = _and_one(product(x0_BI, last_w_IR * weight_I[:, None]))
        ctx.save_for_backward(x0_BI, weight_I, x_BI, low_BQ, up_BQ, *parameters, *saved)
        ctx.count = len(parameters)
        crossed_B = (low_BQ[:, :-1] * up_BQ[:, :-1]).sum(1)
        return crossed_B.add_(x_BI @ weight_I).add_(x0_BI @ (weight_I * last_bias_I))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        to_logit_B1 = gradients[0][:, None]
        x0_BI, weight_I, x_BI, low_BQ, up_BQ, *rest = ctx.saved_tensors
        *inner, (last_w_IR, last_v_RI, last_bias_I) = _threes(rest[: ctx.count])
        last_up_QI = torch.cat([last_w_IR.t(), last_bias_I[None]])
        to_up_BQ, to_low_BJ = low_BQ * to_logit_B1, up_BQ * to_logit_B1
        v_JI = torch.cat([last_v_RI, weight_I[None]])
        to_x0_BI: torch.Tensor | None = None
        to_factor_BI: torch.Tensor | None = None
        to_v_JI: list[torch.Tensor] = []  # the last layer's first
        to_w_QI: list[torch.Tensor] = []
        for (w_IR, v_RI, _), (below_BI, below_BQ, factor_BI) in reversed(
            list(zip(inner, _threes(rest[ctx.count :]), strict=True))
        ):
            to_v_JI.append(product(to_low_BJ.t(), x_BI))
            to_x_BI = product(to_low_BJ, v_JI)
            to_factor_BI = (
                to_x_BI * x0_BI if to_factor_BI is None else to_factor_BI.addcmul_(to_x_BI, x0_BI)
            )
            to_x0_BI = (
                to_x_BI.mul_(factor_BI)
                if to_x0_BI is None
                else to_x0_BI.addcmul_(to_x_BI, factor_BI)
            )
            to_w_QI.append(product(below_BQ.t(), to_factor_BI))
            x_BI, v_JI, to_low_BJ = below_BI, v_RI, product(to_factor_BI, w_IR)
        # The first layer's input is x0, which the last one's other product reads, too.
        both_BJ = torch.cat([to_low_BJ, to_up_BQ], 1)
        both_JI = torch.cat([v_JI, last_up_QI * weight_I])
        if to_x0_BI is None:
            to_x0_BI = product(both_BJ, both_JI)
        else:
            to_x0_BI = product_added(to_x0_BI, both_BJ, both_JI)
        first_JI, to_last_QI = product(both_BJ.t(), x0_BI).split([len(v_JI), len(last_up_QI)])
        to_last_v_JI, *to_v_JI = [*to_v_JI, first_JI]
        to_weight_I = to_last_v_JI[-1] + (to_last_QI * last_up_QI).sum(0)
        found = [
            gradient
            for to_w, to_v in zip(reversed(to_w_QI), reversed(to_v_JI), strict=True)
            for gradient in (to_w[:-1].t(), to_v, to_w[-1])
        ]
        to_last_QI = to_last_QI * weight_I
        found += [to_last_QI[:-1].t(), to_last_v_JI[:-1], to_last_QI[-1]]
        return to_x0_BI, to_weight_I, *found


def _factor(
    factor_BI: torch.Tensor | None, low_BQ: torch.Tensor, w_IR: torch.Tensor, bias_I: torch.Tensor
) -> torch.Tensor:
    """What x₀ is multiplied with after one more layer; of the layer before it, None is 1."""
    if factor_BI is None:
        return product(low_BQ, torch.cat([w_IR, bias_I[:, None] + 1.0], 1).t())
    up_QI = torch.cat([w_IR, bias_I[:, None]], 1).t()
    return product_added(factor_BI.clone(), low_BQ, up_QI)


def _and_one(low_BR: torch.Tensor) -> torch.Tensor:
    return functional.pad(low_BR, (0, 1), value=1.0)


def _threes(tensors: Any) -> list[tuple[Any, Any, Any]]:
    return list(zip(tensors[::3], tensors[1::3], tensors[2::3], strict=True))
