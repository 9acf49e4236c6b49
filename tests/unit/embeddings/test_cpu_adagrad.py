import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from embeddings import cpu_adagrad

RATE, EPS, DIM, SIZE = 0.1, 1e-8, 8, 12
ROWS = (5, 30, 1_000)
TABLE_OF = [0, 1, 1, 2]  # by feature


def tables(**settings) -> torch.nn.Module:
    torch.manual_seed(0)
    made = SplitTableBatchedEmbeddingBagsCodegen(
        [(n, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in ROWS],
        feature_table_map=TABLE_OF,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=RATE,
        eps=EPS,
        **settings,
    )
    made.init_embedding_weights_uniform(-0.1, 0.1)
    return made


def batch(seed: int, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, offsets and a gradient; bags of up to ``longest`` values."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (len(TABLE_OF), SIZE), generator=generator)
    values = [
        torch.randint(0, ROWS[table], (int(lengths[f].sum()),), generator=generator)
        for f, table in enumerate(TABLE_OF)
    ]
    offsets = torch.nn.functional.pad(lengths.view(-1).cumsum(0), (1, 0))
    gradient = torch.randn(SIZE, len(TABLE_OF) * DIM, generator=generator)
    return torch.cat(values), offsets, gradient


def by_the_book(weights, momenta, values, offsets, gradient) -> None:
    """Row-wise Adagrad over every row of every table, one value at a time."""
    grads = [torch.zeros(n, DIM) for n in ROWS]
    for bag in range(len(offsets) - 1):
        feature, impression = divmod(bag, SIZE)
        for value in values[offsets[bag] : offsets[bag + 1]].tolist():
            columns = slice(feature * DIM, (feature + 1) * DIM)
            grads[TABLE_OF[feature]][value] += gradient[impression, columns]
    for weight_ND, momentum_N, grad_ND in zip(weights, momenta, grads, strict=True):
        momentum_N += grad_ND.square().mean(1)
        touched = grad_ND.any(1)
        step_ND = RATE * grad_ND / (momentum_N.sqrt() + EPS)[:, None]
        weight_ND[touched] -= step_ND[touched]


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How many values each call of the kernel got."""
    cpu_adagrad.use_compact_adagrad()
    found: list[int] = []
    kernel = cpu_adagrad.adagrad

    def counting(*arguments) -> None:
        found.append(len(arguments[3]))
        kernel(*arguments)

    monkeypatch.setattr(cpu_adagrad, "adagrad", counting)
    return found


def test_tables_learn_by_the_book(calls):
    made = tables()
    weights = [w.clone() for w in made.split_embedding_weights()]
    momenta = [torch.zeros(n) for n in ROWS]
    for seed, longest in enumerate([1, 4, 0, 4, 2]):
        values, offsets, gradient = batch(seed, longest)
        made(values, offsets).backward(gradient)
        by_the_book(weights, momenta, values, offsets, gradient)
        assert calls[-1] == len(values)
    torch.testing.assert_close(list(made.split_embedding_weights()), weights)
    torch.testing.assert_close([state[0] for state in made.split_optimizer_states()], momenta)


@pytest.mark.parametrize("settings", [{"pooling_mode": PoolingMode.MEAN}, {"weight_decay": 0.1}])
def test_what_the_kernel_does_not_do_goes_to_the_stock_one(calls, settings):
    made = tables(**settings)
    before = [w.clone() for w in made.split_embedding_weights()]
    values, offsets, gradient = batch(3, 3)
    made(values, offsets).backward(gradient)
    assert calls == []
    assert not torch.equal(made.split_embedding_weights()[2], before[2])
