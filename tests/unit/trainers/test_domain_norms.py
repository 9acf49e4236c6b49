"""BatchNorms for each domain: the same as a BatchNorm that sees its domain alone."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from synthetic_stream import SCHEMA, impressions

from streaming.impressions import Feature, ImpressionSchema
from trainers.batch_norm import BatchNorm, DomainNorms
from trainers.learner import Learner
from trainers.model import Dense
from trainers.settings import LevelConfig, ModelConfig, TableConfig

FEATURES, MOMENTUM = 5, 0.1
WITH_DOMAIN = ImpressionSchema(
    features=(*SCHEMA.features, Feature(name="domain", kind="categorical"))
)


def inputs(seed: int, rows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    domain_B = torch.randint(0, 2, (rows,), generator=draws)
    return torch.randn(rows, FEATURES, generator=draws) + 3 * domain_B[:, None], domain_B


def test_each_domain_is_normalised_as_if_alone():
    both, alone = (
        DomainNorms(FEATURES, MOMENTUM, 2),
        [BatchNorm(FEATURES, MOMENTUM) for _ in range(2)],
    )
    for seed in range(3):
        x_BF, domain_B = inputs(seed)
        learnt_BF = both(x_BF, domain_B)
        for domain, norm in enumerate(alone):
            assert torch.equal(learnt_BF[domain_B == domain], norm(x_BF[domain_B == domain]))
    served_BF = both(x_BF, domain_B, serving=True)
    for domain, norm in enumerate(alone):
        assert torch.equal(served_BF[domain_B == domain], norm.serve(x_BF[domain_B == domain]))


@pytest.mark.parametrize("present", [0, 1])
def test_a_domain_with_a_lone_row_or_none_keeps_its_statistics(present):
    norms = DomainNorms(FEATURES, MOMENTUM, 2)
    domain_B = torch.zeros(10, dtype=torch.int64)
    domain_B[:present] = 1
    result_BF = norms(torch.randn(10, FEATURES), domain_B)
    assert torch.isfinite(result_BF).all()
    other = norms.norms[1]
    assert torch.equal(other.running_var, torch.ones(FEATURES))
    assert torch.equal(other.running_mean, torch.zeros(FEATURES))


def test_the_model_has_them_only_when_asked():
    assert isinstance(Dense(SCHEMA, ModelConfig()).norms[0], BatchNorm)
    assert isinstance(Dense(WITH_DOMAIN, ModelConfig(domain="domain")).norms[0], DomainNorms)


def test_a_learner_tells_domains_apart():
    model = ModelConfig(domain="domain", ids=TableConfig(rows=128), hidden=(16,))
    learner = Learner(LevelConfig(batch_size=256, device="cpu", model=model), WITH_DOMAIN)
    for seed in range(3):
        rows = impressions(seed, 256)
        domain = pa.array(np.arange(256) % 4 == 0).cast(pa.int8()).cast(pa.int64())
        batch = learner.to_batch(rows.append_column("domain", domain))
        _, loss = learner.step(batch)
        assert np.isfinite(loss)
    probability_B = learner.predict(batch)
    assert batch.domain_B is not None
    batch.domain_B = 1 - batch.domain_B
    assert (learner.predict(batch) != probability_B).mean() > 0.9  # rounding may hide a few
