"""Row-wise Adagrad fused into the backward pass, for CPU: a third of the stock kernel's time.

The stock CPU kernel goes through memory row by row, and took most of a step. This one
puts a batch's values in the order of their rows, sums the gradients of each row in a
compact buffer, and then reads and writes every row once, all in vectorised operations.
It takes the place of that one operator, on CPU only; what it does not do (weighted or
averaged bags, tables of several widths, weight decay) still goes to the stock kernel.

Legend: B impressions, T features, V values in all bags, R distinct rows among them, D width.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import torch
from torch.nn import functional

_OPERATOR = "split_embedding_backward_codegen_rowwise_adagrad_cpu"
_SUM = 0  # of fbgemm's pooling modes


@functools.cache
def use_compact_adagrad() -> None:
    """Put this kernel in the stock one's place, for the rest of the process."""
    if not hasattr(torch.library, "get_kernel"):  # an older PyTorch cannot hand the stock one back
        return
    name = f"fbgemm::{_OPERATOR}"
    defaults = {a.name: a.default_value for a in torch._C._get_schema(name, "").arguments}
    if not defaults.keys() >= _NEEDED:
        return  # of another fbgemm than those known
    stock = torch.library.get_kernel(name, "CPU")

    def kernel(keys: Any, *given: Any) -> None:
        # PyTorch leaves out what is as by default.
        arguments: dict[str, Any] = defaults | dict(zip(defaults, given, strict=False))
        if not _learn(**arguments):
            stock.call_boxed(keys, *arguments.values())

    library = torch.library.Library("fbgemm", "IMPL")
    library.impl(_OPERATOR, kernel, "CPU", with_keyset=True, allow_override=True)
    _libraries.append(library)


_libraries: list[torch.library.Library] = []  # a library that is forgotten takes its kernel along


def _learn(
    *,
    grad_output: torch.Tensor,
    host_weights: torch.Tensor,
    weights_offsets: torch.Tensor,
    D_offsets: torch.Tensor,
    max_D: int,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    pooling_mode: int,
    indice_weights: torch.Tensor | None,
    momentum1_host: torch.Tensor,
    momentum1_offsets: torch.Tensor,
    learning_rate_tensor: torch.Tensor,
    eps: float,
    weight_decay: float,
    max_norm: float,
    **_: Any,
) -> bool:
    """The operator, by its schema's names; False: this is not for us."""
    dtypes = {grad_output.dtype, host_weights.dtype, momentum1_host.dtype}
    ours = (
        pooling_mode == _SUM
        and indice_weights is None
        and not (weight_decay or max_norm)
        and int(D_offsets[-1]) == len(weights_offsets) * max_D
        and dtypes == {torch.float32}
        and torch.equal(weights_offsets, momentum1_offsets * max_D)
    )
    if ours:
        adagrad(
            host_weights.view(-1, max_D),
            momentum1_host,
            grad_output,
            indices + _each(momentum1_offsets, offsets),
            offsets,
            float(learning_rate_tensor),
            eps,
        )
    return ours


_NEEDED = inspect.signature(_learn).parameters.keys() - {"_"}


def _each(of_feature_T: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """What belongs to each value's feature [V]."""
    values_T = offsets[:: (len(offsets) - 1) // len(of_feature_T)].diff()
    return of_feature_T.repeat_interleave(values_T)


def adagrad(
    weights_ND: torch.Tensor,
    momentum_N: torch.Tensor,
    grad_BX: torch.Tensor,
    rows_V: torch.Tensor,
    offsets: torch.Tensor,
    learning_rate: float,
    eps: float,
) -> None:
    """Update the rows of summed bags in place.

    A row with gradient g takes momentum += mean(g²) and then weights -=
    learning_rate · g / (√momentum + eps), g summed over all bags that hold the row.

    Args:
        grad_BX: gradient of the bags' sums, X = T x D.
        rows_V: row of every value, feature after feature, impression after impression.
        offsets: [T x B + 1] where each bag begins.
    """
    dim = weights_ND.shape[1]
    sorted_rows_V, order_V = _sorted(rows_V)
    first_V = torch.ones(len(rows_V), dtype=torch.bool)
    torch.ne(sorted_rows_V[1:], sorted_rows_V[:-1], out=first_V[1:])
    starts_R = first_V.nonzero().squeeze(1)
    rows_R = sorted_rows_V.index_select(0, starts_R)
    bags_V = _gradient_of(offsets, len(grad_BX), grad_BX.shape[1] // dim).index_select(0, order_V)
    # A sum of gradients is a bag of them.
    grad_RD = functional.embedding_bag(bags_V, grad_BX.reshape(-1, dim), starts_R, mode="sum")
    momentum_R = momentum_N.index_select(0, rows_R).add_(grad_RD.square().mean(1))
    momentum_N.index_copy_(0, rows_R, momentum_R)
    grad_RD.mul_((-learning_rate / (momentum_R.sqrt() + eps))[:, None])
    weights_ND.index_add_(0, rows_R, grad_RD)


def _sorted(rows_V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in ascending order, and where each stood; equal ones stay in order.

    Row and place share a word: a plain sort is several times as fast as a stable one of
    pairs, and equal rows add up in the same order on every machine.
    """
    bits = max(1, len(rows_V)).bit_length()
    words_V = (rows_V << bits) | torch.arange(len(rows_V))
    words_V = torch.from_numpy(np.sort(words_V.numpy()))
    return words_V >> bits, words_V & ((1 << bits) - 1)


def _gradient_of(offsets: torch.Tensor, impressions: int, features: int) -> torch.Tensor:
    """[V] the row of [B x T, D] that holds the gradient of each value's bag."""
    bag_TB = torch.arange(impressions) * features + torch.arange(features)[:, None]
    lengths = offsets.diff()
    bags = bag_TB.view(-1)
    return bags if bool((lengths == 1).all()) else bags.repeat_interleave(lengths)
