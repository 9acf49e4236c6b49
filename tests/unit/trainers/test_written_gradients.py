"""Gradients that are written out by hand, against finite differences and the textbook form."""

import pytest
import torch
from torchrec.modules.crossnet import LowRankCrossNet

from trainers.crosses import CrossNet
from trainers.inputs import dense_inputs


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_crosses_are_those_of_torchrec(layers):
    torch.manual_seed(layers)
    ours, theirs = CrossNet(6, layers, 2).double(), LowRankCrossNet(6, layers, 2).double()
    for bias in ours.bias:
        torch.nn.init.normal_(bias)
    theirs.load_state_dict(ours.state_dict())
    x_BI = torch.randn(5, 6, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(ours(x_BI), theirs(x_BI))
    assert torch.autograd.gradcheck(ours, x_BI)
    weight_BI = torch.randn(5, 6, dtype=torch.double)
    found = {}
    for module in (ours, theirs):
        (module(x_BI) * weight_BI).sum().backward()
        found[module] = [p.grad for p in module.parameters()]
    torch.testing.assert_close(found[ours], found[theirs])


def inputs(pooled_BX: torch.Tensor, others_BR: torch.Tensor, share_B1: torch.Tensor):
    return dense_inputs(pooled_BX, others_BR, [(1, share_B1)], [(0, 1), (2, 1)], 2)


def test_dense_inputs_are_means_and_products():
    torch.manual_seed(0)
    pooled_BX = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    others_BR = torch.randn(4, 3, dtype=torch.double)
    share_B1 = torch.tensor([[1.0], [0.5], [0.25], [1.0]], dtype=torch.double)
    x_BI, product_BP = inputs(pooled_BX, others_BR, share_B1)
    a_BD, b_BD, c_BD = pooled_BX.split(2, 1)
    b_BD = b_BD * share_B1
    torch.testing.assert_close(x_BI, torch.cat([a_BD, b_BD, c_BD, others_BR], 1))
    expected_BP = torch.stack([(a_BD * b_BD).sum(1), (c_BD * b_BD).sum(1)], 1)
    torch.testing.assert_close(product_BP, expected_BP)
    assert torch.autograd.gradcheck(lambda x: inputs(x, others_BR, share_B1), pooled_BX)
