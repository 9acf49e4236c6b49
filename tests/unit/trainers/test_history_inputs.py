import math

import pytest
import torch
from history_support import DIM, small_store
from log_support import SCHEMA, impressions

from trainers.features import BatchMaker, ModelBatch
from trainers.history_inputs import Coverage, attach
from trainers.settings import ModelConfig

MODEL = ModelConfig()


def attached(ids: range, pad_to: int | None = None, **options) -> ModelBatch:
    rows = impressions(ids)
    return attach(BatchMaker(SCHEMA, MODEL)(rows, pad_to), rows, small_store(**options), SCHEMA)


@pytest.mark.parametrize("aggregation", ["mean", "attention"])
def test_no_impression_sees_a_period_that_ends_after_it(aggregation):
    history = attached(range(30), aggregation=aggregation).history
    known_B = history.item_mask_BH.any(1)
    assert not known_B[:10].any(), "before the first period's end nothing is known"
    assert known_B[10:20].all()
    assert (history.item_BHD[10:20] >= 0).all(), "the late period is not over yet"


def test_vectors_are_those_of_each_rows_user_and_item_newest_first():
    history = attached(range(15, 25)).history
    # The impression i shows item i % 31 to user i % 17.
    assert history.user_BHD[2, :, 0].tolist() == [1.0, 0.0]  # i = 17, user 0, early only
    assert history.user_BHD[5, :, 0].tolist() == [-4.0, 4.0]  # i = 20, user 3, both
    assert history.item_BHD[0, :, 0].tolist() == [16.0, 0.0]
    assert history.item_mask_BH[6].tolist() == [0.0, 0.0]  # i = 21, an item never seen
    assert history.user_mask_BH[0].tolist() == [0.0, 0.0]  # i = 15, a user never seen
    assert history.item_BHD[5].abs().sum() == 0


def test_the_batch_is_otherwise_as_it_was():
    rows = impressions(range(12))
    plain = BatchMaker(SCHEMA, MODEL)(rows)
    batch = attach(plain, rows, small_store(), SCHEMA)
    assert plain.history is None
    assert batch.kjt is plain.kjt
    assert batch.rows == 12


def test_padding_has_no_history():
    history = attached(range(20, 23), pad_to=8).history
    assert history.user_BHD.shape == (8, 2, DIM)
    assert history.user_mask_BH[:3].any()
    for part in history.tensors():
        assert part.dtype == torch.float32
        assert not part[3:].any()


def test_a_rank_without_impressions_joins_with_an_empty_history():
    history = attached(range(0), pad_to=4).history
    assert history.item_BHD.shape == (4, 2, DIM)
    assert not any(part.any() for part in history.tensors())


def test_coverage_counts_impressions_not_padding():
    coverage = Coverage()
    coverage.add(attached(range(20, 24), pad_to=8))  # users 3 to 6, items 20 to 23
    coverage.add(attached(range(4)))  # too early
    assert coverage.take() == {"user": 0.5, "item": 0.0}
    assert all(math.isnan(share) for share in coverage.take().values())
