"""Matrix products by oneDNN, where that is faster than the library behind PyTorch's own.

PyTorch hands float32 products on x86 to MKL, which does not use AVX-512 on processors
of other makers than its own; oneDNN, which PyTorch carries too, does, and took less than
half the time. On Intel's own MKL is the faster one: it reads a transposed matrix where it
lies, which oneDNN copies first, and a weight's gradient took half the time. Everywhere
else, and for every other type, these are PyTorch's products.

Legend: M, K, N sizes of a product; B impressions, I inputs, O outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def _made_by_intel(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        return "GenuineIntel" in cpuinfo.read_text()
    except OSError:  # not Linux
        return False


_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
_ONEDNN = (
    _HAS_ONEDNN and torch.backends.cpu.get_cpu_capability() == "AVX512" and not _made_by_intel()
)


_LEAST = 2**23
"""Multiplications from which on it is worth oneDNN's 30 microseconds a call."""


def _is_for_onednn(a_MK: torch.Tensor, b_KN: torch.Tensor) -> bool:
    return (
        _ONEDNN
        and a_MK.numel() * b_KN.shape[1] >= _LEAST
        and a_MK.device.type == "cpu"
        and a_MK.dtype == b_KN.dtype == torch.float32
    )


def product(
    a_MK: torch.Tensor, b_KN: torch.Tensor, bias_N: torch.Tensor | None = None
) -> torch.Tensor:
    """``a_MK @ b_KN``, plus ``bias_N`` in every row; without a gradient of its own."""
    if _is_for_onednn(a_MK, b_KN):
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            a_MK, b_KN.t(), bias_N, "none", [], ""
        )
        return made
    return functional.linear(a_MK, b_KN.t(), bias_N)


def product_added(sum_MN: torch.Tensor, a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """``sum_MN + a_MK @ b_KN``, perhaps in ``sum_MN``'s memory; without a gradient of its own."""
    if _is_for_onednn(a_MK, b_KN):
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            a_MK, sum_MN, b_KN.t(), None, "add"
        )
        return made
    return sum_MN.addmm_(a_MK, b_KN)


class Linear(nn.Linear):
    """``nn.Linear`` by these products, for inputs [B, I]."""

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = _Linear.apply(x_BI, self.weight, self.bias)
        return made


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x_BI, weight_OI)
        return product(x_BI, weight_OI.t(), bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (to_result_BO,) = gradients
        x_BI, weight_OI = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(to_result_BO, weight_OI) if for_x else None,
            product(to_result_BO.t(), x_BI) if for_weight else None,
            to_result_BO.sum(0) if for_bias else None,
        )
