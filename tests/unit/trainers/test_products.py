"""Products by oneDNN against those of PyTorch, at sizes on both sides of its threshold."""

import pytest
import torch
from torch import nn

from trainers import products
from trainers.products import Linear, product, product_added

LARGE, SMALL = (2_048, 96, 64), (5, 7, 3)
SIZES = pytest.mark.parametrize("size", [LARGE, SMALL, (0, 7, 3), (1, 1, 1)])


CHOSEN = products._ONEDNN
USABLE = torch.backends.cpu.get_cpu_capability() == "AVX512" and products._HAS_ONEDNN


@pytest.fixture(
    autouse=True,
    params=[False, pytest.param(True, marks=pytest.mark.skipif(not USABLE, reason="no oneDNN"))],
    ids=["pytorch", "onednn"],
)
def onednn(request, monkeypatch):
    """Whatever this processor's maker, both libraries are tried."""
    monkeypatch.setattr(products, "_ONEDNN", request.param)


def factors(size: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    m, k, n = size
    return torch.randn(m, k), torch.randn(k, n)


@SIZES
@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_those_of_double_precision(size, transposed):
    a_MK, b_KN = factors(size)
    if transposed:  # in memory; the numbers stay where they are
        a_MK, b_KN = a_MK.t().contiguous().t(), b_KN.t().contiguous().t()
    bias_N, sum_MN = torch.randn(size[2]), torch.randn(size[0], size[2])
    exact_MN = a_MK.double() @ b_KN.double()
    for found_MN, expected_MN in (
        (product(a_MK, b_KN), exact_MN),
        (product(a_MK, b_KN, bias_N), exact_MN + bias_N),
        (product_added(sum_MN.clone(), a_MK, b_KN), exact_MN + sum_MN),
    ):
        torch.testing.assert_close(found_MN.double(), expected_MN, rtol=1e-5, atol=1e-4)


def test_small_products_and_other_types_are_left_to_pytorch(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("oneDNN was asked")

    monkeypatch.setattr(products, "_ONEDNN", True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
    product(*factors(SMALL))
    product(*(f.double() for f in factors(LARGE)))
    with pytest.raises(AssertionError, match="oneDNN"):
        product(*factors(LARGE))


@SIZES
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_that_of_pytorch(size, bias):
    m, k, n = size
    ours, theirs = Linear(k, n, bias=bias), nn.Linear(k, n, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x_MK = factors(size)[0].requires_grad_()
    y_MK = x_MK.detach().clone().requires_grad_()
    to_result_MN = torch.randn(m, n)
    torch.testing.assert_close(ours(x_MK), theirs(y_MK))
    ours(x_MK).backward(to_result_MN)
    theirs(y_MK).backward(to_result_MN)
    found = [x_MK.grad, *(p.grad for p in ours.parameters())]
    expected = [y_MK.grad, *(p.grad for p in theirs.parameters())]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("cpuinfo", "intel"),
    [("vendor_id : GenuineIntel\n", True), ("vendor_id : AuthenticAMD\n", False)],
)
def test_the_maker_of_the_processor_is_known(tmp_path, cpuinfo, intel):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert products._made_by_intel(tmp_path / "cpuinfo") == intel
    assert not products._made_by_intel(tmp_path / "of another system")


def test_intels_processors_are_left_to_mkl():
    assert (USABLE and not products._made_by_intel()) == CHOSEN


def test_what_needs_no_gradient_gets_none():
    layer = Linear(4, 2)
    layer.weight.requires_grad_(False)
    layer(torch.ones(3, 4)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad.tolist() == [3.0, 3.0]
