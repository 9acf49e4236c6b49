import numpy as np
import pyarrow as pa
import pytest
import torch
from synthetic_stream import SCHEMA, impressions

from embeddings.ids import spread
from streaming.impressions import Feature, ImpressionSchema
from trainers.features import BatchMaker, History, ModelBatch
from trainers.settings import ModelConfig, TableConfig

MODEL = ModelConfig()
SMALL = ImpressionSchema(
    features=(
        Feature(name="user_id", kind="id"),
        Feature(name="item_id", kind="id"),
        Feature(name="recent", kind="id", multi=True, table="item_id", optional=True),
        Feature(name="ad", kind="id", optional=True),
        Feature(name="hour", kind="categorical"),
        Feature(name="age", kind="numeric", optional=True),
    )
)


def small_rows() -> pa.RecordBatch:
    columns = {
        "impression_id": [1, 2, 3],
        "event_time": [10, 20, 30],
        "click": [1, 0, 1],
        "user_id": [7, 3, 7],
        "item_id": [5, 6, 8],
        "recent": [[4, 9], None, [2]],
        "ad": [None, 12, None],
        "hour": [23, 0, 1_000_000],
        "age": [3.0, None, -1.0],
    }
    return pa.RecordBatch.from_pydict(columns, schema=SMALL.arrow)


def test_jagged_layout_is_features_first_with_missing_values_as_empty_bags():
    batch = BatchMaker(SMALL, MODEL)(small_rows())
    assert batch.kjt.keys() == ["user_id", "item_id", "recent", "ad", "hour"]
    lengths_FB = batch.kjt.lengths().view(5, 3).tolist()
    assert lengths_FB == [[1, 1, 1], [1, 1, 1], [2, 0, 1], [0, 1, 0], [1, 1, 1]]
    ids = spread(np.array([7, 3, 7, 5, 6, 8, 4, 9, 2, 12]))
    np.testing.assert_array_equal(batch.kjt.values()[:10].numpy(), ids)
    hours = batch.kjt.values()[10:].tolist()
    assert hours[:2] == [23, 0]
    assert 0 <= hours[2] < MODEL.categories.rows


def test_numbers_are_shrunk_with_their_sign_and_missing_ones_are_zero():
    batch = BatchMaker(SMALL, MODEL)(small_rows())
    expected = [np.log(4.0), 0.0, -np.log(2.0)]
    np.testing.assert_allclose(batch.numeric_BN[:, 0].numpy(), expected, rtol=1e-6)
    assert batch.label_B.tolist() == [1.0, 0.0, 1.0]


def test_a_slice_reads_only_its_own_rows():
    whole = BatchMaker(SMALL, MODEL)(small_rows())
    last = BatchMaker(SMALL, MODEL)(small_rows().slice(2))
    assert last.kjt.lengths().tolist() == [1, 1, 1, 0, 1]
    assert last.kjt["recent"].values().tolist() == whole.kjt["recent"].values()[2:].tolist()


def test_padding_rows_are_empty_and_weigh_nothing():
    batch = BatchMaker(SMALL, MODEL)(small_rows(), pad_to=5)
    assert batch.rows == 3
    assert batch.padded
    assert batch.kjt.lengths().view(5, 5)[:, 3:].sum() == 0
    assert batch.weight_B.tolist() == [1, 1, 1, 0, 0]
    unpadded = BatchMaker(SMALL, MODEL)(small_rows())
    assert torch.equal(batch.kjt.values(), unpadded.kjt.values())


def test_no_rows_at_all_make_a_batch_that_a_rank_can_join_with():
    batch = BatchMaker(SMALL, MODEL)(small_rows().slice(0, 0), pad_to=4)
    assert batch.rows == 0
    assert batch.kjt.stride() == 4
    assert batch.kjt.values().numel() == 0
    assert batch.weight_B.sum() == 0


def test_more_rows_than_fit_are_refused():
    with pytest.raises(ValueError, match="3 impressions do not fit a batch of 2"):
        BatchMaker(SMALL, MODEL)(small_rows(), pad_to=2)


def test_hashed_ids_become_rows_of_their_table():
    hashed = ModelConfig(ids=TableConfig(rows=64, vocabulary="hashed"))
    batch = BatchMaker(SCHEMA, hashed)(impressions(0, 500))
    for name in ("user_id", "item_id", "recent_items", "creative_id"):
        values = batch.kjt[name].values()
        assert values.min() >= 0
        assert values.max() < 64


def test_the_same_item_is_the_same_id_in_every_feature_of_its_table():
    batch = BatchMaker(SCHEMA, MODEL)(impressions(0, 500))
    items = set(batch.kjt["item_id"].values().tolist())
    assert set(batch.kjt["recent_items"].values().tolist()) & items


def test_moving_keeps_everything():
    history = History(*(torch.rand(3, 2, 4) for _ in range(2)), *(torch.ones(3, 2),) * 2)
    batch = BatchMaker(SMALL, MODEL)(small_rows())
    batch.history = history
    moved = batch.to(torch.device("cpu"), non_blocking=True)
    assert isinstance(moved, ModelBatch)
    assert moved.rows == 3
    assert moved.history is not None
    assert torch.equal(moved.history.user_BHD, history.user_BHD)
    assert torch.equal(moved.kjt.values(), batch.kjt.values())
