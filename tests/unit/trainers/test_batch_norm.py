import pytest
import torch
from torch import nn

from trainers.batch_norm import BatchNorm


def pair(features: int = 5) -> tuple[BatchNorm, nn.BatchNorm1d]:
    return BatchNorm(features, momentum=0.1), nn.BatchNorm1d(features, momentum=0.1)


def batches(count: int = 5, size: int = 64, mean: float = 0.0) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(size, 5) * 3 + mean for _ in range(count)]


def test_on_one_rank_without_padding_it_gives_torchs_bits():
    ours, stock = pair()
    for x in batches():
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        out_a, out_b = ours(a), stock(b)
        out_a.square().sum().backward()
        out_b.square().sum().backward()
        assert torch.equal(out_a, out_b)
        assert torch.equal(a.grad, b.grad)
    assert torch.equal(ours.running_mean, stock.running_mean)
    assert torch.equal(ours.running_var, stock.running_var)
    stock.eval()
    assert torch.equal(ours.serve(x), stock(x))


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_padding_rows_change_nothing(mean):
    ours, stock = pair()
    ours.running_mean.fill_(mean)
    stock.running_mean.fill_(mean)
    for x in batches(mean=mean):
        padded = torch.cat([x, torch.full((20, 5), 77.0)])
        weight_B = torch.cat([torch.ones(64), torch.zeros(20)])
        a, b = padded.requires_grad_(), x.clone().requires_grad_()
        out_a, out_b = ours(a, weight_B)[:64], stock(b)
        scale = torch.linspace(-1, 1, 64)[:, None]
        (out_a.sin() * scale).sum().backward()
        (out_b.sin() * scale).sum().backward()
        tolerance = {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(out_a, out_b, **tolerance)
        torch.testing.assert_close(a.grad[:64], b.grad, **tolerance)
        assert torch.equal(a.grad[64:], torch.zeros(20, 5))
    torch.testing.assert_close(ours.running_mean, stock.running_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.running_var, stock.running_var, rtol=1e-3, atol=1e-4)


def test_weights_count_as_repetitions():
    ours, _ = pair()
    twice, _ = pair()
    x = batches(1)[0]
    weight_B = torch.tensor([1.0, 2.0] * 32)
    repeated = torch.cat([x, x[1::2]])
    torch.testing.assert_close(ours(x, weight_B), twice(repeated)[:64], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_var, twice.running_var)


def test_a_single_impression_is_learnt_without_complaint():
    ours, _ = pair()
    out = ours(torch.ones(1, 5), torch.ones(1))
    assert torch.isfinite(out).all()
    assert torch.isfinite(ours.running_var).all()


def test_serving_records_nothing():
    ours, _ = pair()
    before = ours.running_mean.clone()
    ours.serve(batches(1)[0])
    assert torch.equal(ours.running_mean, before)
