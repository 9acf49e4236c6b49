"""Batches that are made ready together are what each would have been alone."""

import numpy as np
import pytest
import torch
from replay_support import small_log

from streaming.impressions import EVENT_TIME, ImpressionSchema
from trainers.chunks import chunked, made_ready, split
from trainers.features import BatchMaker, History
from trainers.replay.log import AD, DOMAINS, NATURAL, RecordedLog
from trainers.settings import ModelConfig

SCHEMA = ImpressionSchema()
MODEL = ModelConfig(domain="domain", domains=len(DOMAINS))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return RecordedLog(small_log(tmp_path_factory.mktemp("log") / "market"), SCHEMA)


def make(rows):
    batch = BatchMaker(SCHEMA, MODEL)(rows)
    vector_BHD = torch.from_numpy(rows.column(EVENT_TIME).to_numpy().astype(np.float32))
    batch.history = History(*(vector_BHD.view(-1, 1, 1) + k for k in range(4)))
    return batch


def tensors(batch):
    kjt = batch.kjt
    own = [kjt.lengths(), kjt.values(), kjt.offsets(), batch.numeric_BN, batch.label_B]
    return [*own, batch.weight_B, batch.domain_B, *batch.history.tensors()]


def test_each_batch_is_what_it_would_be_alone(log):
    batches = list(log.batches(DOMAINS, 90))
    chunks = list(chunked(batches, 7, lambda batch: None))
    assert [len(chunk) for chunk in chunks[:-1]] == [7] * (len(chunks) - 1)
    ready = [batch for chunk in chunks for batch in made_ready(chunk, make)]
    assert len(ready[-1]) < 90, "the last batch must be a shorter one"
    for batch, found in zip(batches, ready, strict=True):
        assert found.rows.equals(batch.rows)
        alone, prepared = make(batch.rows), found.prepared
        assert prepared.rows == alone.rows
        assert prepared.kjt.keys() == alone.kjt.keys()
        assert prepared.kjt.stride() == alone.kjt.stride()
        for one, other in zip(tensors(prepared), tensors(alone), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_what_a_model_does_not_read_stays_away(log):
    rows = next(log.batches((AD,), 100)).rows
    (part,) = split(BatchMaker(SCHEMA, ModelConfig())(rows), [100])
    assert part.history is None
    assert part.domain_B is None


def test_only_batches_of_one_key_are_made_ready_together(log):
    batches = list(log.batches((NATURAL,), 100))
    days = [batch.watermark // 86_400_000 for batch in batches]
    chunks = list(chunked(batches, 4, lambda batch: batch.watermark // 86_400_000))
    assert [batch for chunk in chunks for batch in chunk] == batches
    assert all(len({b.watermark // 86_400_000 for b in chunk}) == 1 for chunk in chunks)
    assert len(set(days)) < len(chunks) < len(batches)
