"""Gradients that are written out by hand, against finite differences and the textbook form."""

import pytest
import torch
from torchrec.modules.crossnet import LowRankCrossNet
from torchrec.sparse.jagged_tensor import KeyedTensor

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
    weight_I = torch.randn(6, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(ours.logit(x_BI, weight_I), theirs(x_BI) @ weight_I)
    assert torch.autograd.gradcheck(ours.logit, (x_BI, weight_I))
    to_logit_B = torch.randn(5, dtype=torch.double)
    ours.logit(x_BI, weight_I).backward(to_logit_B)
    (theirs(x_BI) @ weight_I).backward(to_logit_B)
    torch.testing.assert_close(
        [p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()]
    )


NAMES = ["a", "b", "c", "d"]
OTHERS_BR = torch.arange(12, dtype=torch.double).view(4, 3)
SHARE_B1 = torch.tensor([[1.0], [0.5], [0.25], [1.0]], dtype=torch.double)


def inputs(first_BC: torch.Tensor, second_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``b`` is a mean; a plan has ordered the features as it liked."""
    tables = [
        KeyedTensor(["b", "c", "a"], [2, 2, 2], first_BC),
        KeyedTensor(["d"], [2], second_BC),
    ]
    return dense_inputs(tables, NAMES, OTHERS_BR, [(1, SHARE_B1)], [(0, 1), (3, 1)], 2)


def test_dense_inputs_are_features_in_order_and_products():
    torch.manual_seed(0)
    first_BC = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    d_BD = torch.randn(4, 2, dtype=torch.double, requires_grad=True)
    x_BI, product_BP = inputs(first_BC, d_BD)
    b_BD, c_BD, a_BD = first_BC.split(2, 1)
    b_BD = b_BD * SHARE_B1
    torch.testing.assert_close(x_BI, torch.cat([a_BD, b_BD, c_BD, d_BD, OTHERS_BR], 1))
    expected_BP = torch.stack([(a_BD * b_BD).sum(1), (d_BD * b_BD).sum(1)], 1)
    torch.testing.assert_close(product_BP, expected_BP)
    assert torch.autograd.gradcheck(inputs, (first_BC, d_BD))


def test_other_inputs_get_their_gradient_where_somebody_asks():
    def with_others(others_BR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tables = [KeyedTensor(["a", "b"], [2, 2], torch.ones(4, 4, dtype=torch.double))]
        return dense_inputs(tables, ["b", "a"], others_BR, [], [(0, 1)], 2)

    others_BR = OTHERS_BR.clone().requires_grad_()
    assert torch.autograd.gradcheck(with_others, others_BR)
    x_BI, _ = with_others(others_BR)
    (x_BI * torch.arange(7.0)).sum().backward()
    assert others_BR.grad.tolist() == [[4.0, 5.0, 6.0]] * 4
