"""Models that read historical embeddings, beside those that do not."""

import numpy as np
import pytest
import torch
from synthetic_stream import SCHEMA, impressions

from trainers.features import History, ModelBatch
from trainers.learner import Learner, write_state
from trainers.settings import LevelConfig, ModelConfig, TableConfig

SIZE, SLOTS, DIM = 128, 3, 8
STREAM = [impressions(seed, SIZE) for seed in range(8)]
SHAPES = [{}, {"hidden": ()}, {"cross_layers": 0}, {"batch_norm": False}]


def learner(**model) -> Learner:
    settings = {"eviction_interval": 3, "ids": TableConfig(rows=128), "hidden": (16,)} | model
    config = LevelConfig(batch_size=SIZE, device="cpu", model=ModelConfig(**settings))
    return Learner(config, SCHEMA)


def with_history(aggregation: str = "attention", **model) -> Learner:
    return learner(history_slots=SLOTS, history_dim=DIM, history_aggregation=aggregation, **model)


def attached(made: Learner, index: int, known: float = 0.7) -> ModelBatch:
    """A batch with random vectors; a share ``known`` of the slots holds one."""
    generator = torch.Generator().manual_seed(index)
    batch = made.to_batch(STREAM[index])
    vectors = [torch.randn(SIZE, SLOTS, DIM, generator=generator) for _ in range(2)]
    masks = [(torch.rand(SIZE, SLOTS, generator=generator) < known).float() for _ in range(2)]
    batch.history = History(*vectors, *masks)
    return batch


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("aggregation", ["mean", "attention"])
def test_it_starts_as_what_it_were_without_a_history(aggregation, shape):
    expected_B, expected_loss = learner(**shape).step(learner(**shape).to_batch(STREAM[0]))
    for known in (None, 0.0):
        made = with_history(aggregation, **shape)
        batch = made.to_batch(STREAM[0]) if known is None else attached(made, 0, known)
        probability_B, loss = made.step(batch)
        # The same up to the order of sums, which may change where zeros are added.
        np.testing.assert_allclose(probability_B, expected_B, rtol=2e-6)
        assert loss == pytest.approx(expected_loss, rel=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_it_learns_from_a_history(shape):
    made = with_history(**shape)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    for index in range(3):
        made.step(attached(made, index))
    changed = {n for n, p in made.model.named_parameters() if not torch.equal(before[n], p)}
    dense = {name for name in before if ".dense." in f".{name}"}
    assert {"asks_user_DD", "asks_item_DD"} <= {name.split(".")[-1] for name in changed}
    assert dense <= changed


def test_a_batch_without_history_trains_the_rest():
    made = with_history()
    for index in range(3):
        _, loss = made.step(made.to_batch(STREAM[index]))
        assert np.isfinite(loss)


def test_pipelined_steps_give_the_same():
    one, other = with_history(), with_history()
    results = [one.step(attached(one, index)) for index in range(6)]
    again = list(other.steps((attached(other, index) for index in range(6)), pipelined=True))
    for (expected_B, expected_loss), (probability_B, loss) in zip(results, again, strict=True):
        np.testing.assert_array_equal(probability_B, expected_B)
        assert loss == expected_loss


def test_a_checkpoint_holds_what_the_attention_learnt(tmp_path):
    made = with_history()
    for index in range(3):
        made.step(attached(made, index))
    write_state(made.snapshot(), tmp_path)
    resumed = with_history()
    resumed.load(tmp_path)
    expected_B, _ = made.step(attached(made, 4))
    found_B, _ = resumed.step(attached(resumed, 4))
    np.testing.assert_array_equal(found_B, expected_B)


def test_user_times_item_enters_the_logit_before_anything_is_learnt():
    def clicked(made: Learner, seed: int) -> ModelBatch:
        batch = made.to_batch(impressions(100 + seed, SIZE))
        batch.history = History.none(SIZE, SLOTS, DIM)
        sign_B = 2 * batch.label_B - 1
        batch.history.user_BHD = torch.ones(SIZE, SLOTS, DIM) * sign_B[:, None, None]
        batch.history.item_BHD = torch.ones(SIZE, SLOTS, DIM)
        batch.history.user_mask_BH = batch.history.item_mask_BH = torch.ones(SIZE, SLOTS)
        return batch

    made = with_history()
    batch = clicked(made, 0)
    probability_B, label_B = made.predict(batch), batch.label_B.numpy()
    assert probability_B[label_B == 1].min() > probability_B[label_B == 0].max()
