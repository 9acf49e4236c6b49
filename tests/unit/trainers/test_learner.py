import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from synthetic_stream import SCHEMA, click_probability, impressions
from torch.distributed._shard.sharded_tensor import ShardedTensor

from errors import UserError
from streaming.impressions import Feature, ImpressionSchema
from trainers.checksum import checksum_of
from trainers.features import History
from trainers.held_back import unlearnt
from trainers.learner import Learner, write_state
from trainers.settings import LevelConfig, ModelConfig, OptimizerConfig, TableConfig

GOLDEN = Path(__file__).parents[2] / "data" / "golden_loss.json"
SIZE = 256


def config(**model) -> LevelConfig:
    settings = {"eviction_interval": 4, "ids": TableConfig(rows=128), "hidden": (16,)} | model
    return LevelConfig(batch_size=SIZE, device="cpu", model=ModelConfig(**settings))


def biased(**rates) -> LevelConfig:
    return config().model_copy(update={"optimizer": OptimizerConfig(**rates)})


STREAM = [impressions(seed, SIZE) for seed in range(24)]


def learn(learner: Learner, stream=STREAM) -> list[tuple[list[float], float]]:
    results = [learner.step(learner.to_batch(rows)) for rows in stream]
    return [(probability_B.tolist(), loss) for probability_B, loss in results]


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    return {
        name: (t.local_shards()[0].tensor if isinstance(t, ShardedTensor) else t).clone()
        for name, t in learner.state().items()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The whole stream in one go, with a checkpoint before, in and between intervals."""
    folder = tmp_path_factory.mktemp("learner")
    learner = Learner(config(), SCHEMA)
    results, snapshots = [], {}
    for index, rows in enumerate(STREAM):
        if index in (0, 2, 4, 13):
            snapshots[index] = learner.snapshot()
        results += learn(learner, [rows])
    for index, snapshot in snapshots.items():  # written only now: copies do not move on
        (folder / str(index)).mkdir()
        write_state(snapshot, folder / str(index))
    assert learner.vocabulary_stats()["user_id"].evicted_total > 0, "the stream must evict"
    return {"folder": folder, "results": results, "tensors": tensors(learner)}


@pytest.mark.parametrize("saved_at", [0, 2, 4, 13])
def test_going_on_from_a_checkpoint_gives_the_same_bits(uninterrupted, saved_at):
    learner = Learner(config(), SCHEMA)
    learner.load(uninterrupted["folder"] / str(saved_at))
    assert learner.steps_done == saved_at
    assert learn(learner, STREAM[saved_at:]) == uninterrupted["results"][saved_at:]
    for name, tensor in tensors(learner).items():
        assert torch.equal(tensor, uninterrupted["tensors"][name]), name


def test_a_row_that_no_table_has_is_an_error_and_not_row_0():
    learner = Learner(config(), SCHEMA)
    batch = learner.to_batch(STREAM[0])
    batch.kjt["segment"].values()[3] = ModelConfig().categories.rows
    with pytest.raises(RuntimeError, match="out of bounds"):
        learner.step(batch)


def test_what_is_held_back_is_in_the_batchs_statistics_with_padding_and_without():
    """Padding, as several ranks have it, takes BatchNorm by weights; without it takes none."""
    out_B = np.arange(SIZE) % 4 == 0
    learners = [Learner(config(), SCHEMA) for _ in range(2)]
    for learner, size in zip(learners, (SIZE, SIZE + 50), strict=True):
        for rows in STREAM[:3]:
            learner.step(unlearnt(learner.to_batch(rows, size), out_B))
    plain, padded = map(tensors, learners)
    for name in plain:
        assert torch.allclose(plain[name], padded[name], rtol=1e-4, atol=1e-5), name


def test_a_snapshot_into_an_earlier_one_holds_what_is_now(uninterrupted, tmp_path):
    learner = Learner(config(), SCHEMA)
    learn(learner, STREAM[:3])
    spare = learner.snapshot()
    learn(learner, STREAM[3:13])
    snapshot = learner.snapshot(spare)
    learn(learner, STREAM[13:14])  # not what the snapshot holds
    write_state(snapshot, tmp_path)
    resumed = Learner(config(), SCHEMA)
    resumed.load(tmp_path)
    assert learn(resumed, STREAM[13:]) == uninterrupted["results"][13:]


def test_a_state_written_past_the_page_cache_is_the_same_state(uninterrupted, tmp_path):
    learner = Learner(config(), SCHEMA)
    learn(learner, STREAM[:13])
    checksums = write_state(learner.snapshot(), tmp_path, direct=True)
    assert checksums == {n: checksum_of(tmp_path / n) for n in (".metadata", "__0_0.distcp")}
    usual = uninterrupted["folder"] / "13"
    assert (tmp_path / "__0_0.distcp").read_bytes() == (usual / "__0_0.distcp").read_bytes()
    resumed = Learner(config(), SCHEMA)
    resumed.load(tmp_path)
    assert learn(resumed, STREAM[13:]) == uninterrupted["results"][13:]


def test_a_snapshot_copies_tables_and_not_all_the_memory_that_they_lie_in(monkeypatch):
    learner = Learner(config(), SCHEMA)
    (shard,) = learner.state()["model.hashed.embedding_bags.segment.weight"].local_shards()
    assert shard.tensor.untyped_storage().nbytes() > shard.tensor.nbytes, "it lies among others"

    def refuse(storage, memo):
        raise AssertionError(f"{storage.nbytes():,} bytes copied")

    monkeypatch.setattr(torch.UntypedStorage, "__deepcopy__", refuse)
    learner.snapshot()


def test_the_same_seed_and_data_give_the_same_bits(uninterrupted):
    torch.manual_seed(12345)  # the global generator has no say
    assert learn(Learner(config(), SCHEMA)) == uninterrupted["results"]


def test_a_learner_that_knows_something_forgets_it_when_it_loads(uninterrupted):
    learner = Learner(config(), SCHEMA)
    learn(learner, STREAM[5:15])
    learner.load(uninterrupted["folder"] / "2")
    assert learn(learner, STREAM[2:8]) == uninterrupted["results"][2:8]


def test_the_loss_curve_is_the_golden_one(uninterrupted):
    losses = [loss for _, loss in uninterrupted["results"]]
    np.testing.assert_allclose(losses, json.loads(GOLDEN.read_text()), rtol=1e-3)


def test_the_output_bias_has_a_learning_rate_of_its_own():
    """Adam's first step is as long as the rate, so of one step each rate can be told."""

    def after_a_step(**rates) -> dict[str, torch.Tensor]:
        learner = Learner(biased(**rates), SCHEMA)
        learn(learner, STREAM[:1])
        return tensors(learner)

    (name,) = (n for n in tensors(Learner(config(), SCHEMA)) if n.endswith("output.bias"))
    start, without, own = (
        tensors(Learner(config(), SCHEMA)),
        after_a_step(),
        after_a_step(bias_learning_rate=0.25),
    )
    assert float((without[name] - start[name]).abs()) == pytest.approx(0.001, rel=1e-3)
    assert float((own[name] - start[name]).abs()) == pytest.approx(0.25, rel=1e-3)
    for other in own.keys() - {name}:
        assert torch.equal(own[other], without[other]), other


def test_the_rate_of_the_others_for_the_bias_changes_no_bit(uninterrupted):
    rate = OptimizerConfig().dense_learning_rate
    learner = Learner(biased(bias_learning_rate=rate), SCHEMA)
    assert learn(learner) == uninterrupted["results"]


def test_going_on_with_a_rate_for_the_bias_gives_the_same_bits(tmp_path):
    learner = Learner(biased(bias_learning_rate=0.05), SCHEMA)
    learn(learner, STREAM[:5])
    write_state(learner.snapshot(), tmp_path)
    expected = learn(learner, STREAM[5:12])
    resumed = Learner(biased(bias_learning_rate=0.05), SCHEMA)
    resumed.load(tmp_path)
    assert learn(resumed, STREAM[5:12]) == expected
    theirs = tensors(resumed)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in tensors(learner).items())


def test_a_checkpoint_from_before_the_bias_had_a_rate_can_be_gone_on_from(uninterrupted):
    """And the other way round: the rate is no part of the state."""
    learner = Learner(biased(bias_learning_rate=0.05), SCHEMA)
    learner.load(uninterrupted["folder"] / "4")
    results = learn(learner, STREAM[4:8])
    assert results[0] == uninterrupted["results"][4]
    assert results[2] != uninterrupted["results"][6]


@pytest.mark.parametrize("pipelined", [False, True])
def test_steps_give_what_step_gives(uninterrupted, pipelined):
    learner = Learner(config(), SCHEMA)
    batches = [learner.to_batch(rows) for rows in STREAM]
    results = learn(learner, STREAM[:1])
    for chunk in (batches[1:6], batches[6:9]):
        results += [(p.tolist(), loss) for p, loss in learner.steps(chunk, pipelined)]
    results += learn(learner, STREAM[9:11])
    assert results == uninterrupted["results"][:11]
    assert learner.steps_done == 11


def test_what_is_published_is_what_would_have_been_served():
    learner = Learner(config(), SCHEMA)
    learn(learner, STREAM[:6])
    batch = learner.to_batch(STREAM[6])
    served_B = learner.predict(batch)
    again_B = learner.predict(batch)
    published_B, _ = learner.step(batch)
    np.testing.assert_array_equal(served_B, again_B)
    # A round of admissions within the step may give rows to ids that had none.
    np.testing.assert_allclose(published_B, served_B, rtol=1e-5)
    assert published_B.dtype == np.float32


def test_predicting_changes_nothing(uninterrupted):
    learner = Learner(config(), SCHEMA)
    results = []
    for rows in STREAM[:10]:
        learner.predict(learner.to_batch(STREAM[20]))
        results += learn(learner, [rows])
    assert results == uninterrupted["results"][:10]


def test_padding_changes_no_prediction_and_hardly_the_loss():
    plain, padded = Learner(config(), SCHEMA), Learner(config(), SCHEMA)
    for rows in STREAM[:8]:
        short = rows.slice(0, 200)
        probability_B, loss = plain.step(plain.to_batch(short))
        padded_B, padded_loss = padded.step(padded.to_batch(short, pad_to=SIZE))
        assert len(padded_B) == 200
        np.testing.assert_allclose(padded_B, probability_B, rtol=2e-3)
        assert padded_loss == pytest.approx(loss, rel=1e-4)


def test_an_empty_and_a_single_impression_are_learnt_without_complaint():
    learner = Learner(config(), SCHEMA)
    learn(learner, STREAM[:5])
    one_B, loss = learner.step(learner.to_batch(STREAM[5].slice(0, 1)))
    assert len(one_B) == 1
    assert math.isfinite(loss)
    none_B, loss = learner.step(learner.to_batch(STREAM[5].slice(0, 0), pad_to=8))
    assert len(none_B) == 0
    assert loss == 0.0
    assert all(torch.isfinite(tensor).all() for tensor in tensors(learner).values())


def test_it_finds_the_hidden_inner_product():
    learner = Learner(
        LevelConfig(
            batch_size=512,
            device="cpu",
            model=ModelConfig(eviction_interval=5, hidden=(32,)),
            optimizer=OptimizerConfig(table_learning_rate=0.1, dense_learning_rate=0.005),
        ),
        SCHEMA,
    )
    results = [
        (rows, *learner.step(learner.to_batch(rows)))
        for rows in (impressions(1_000 + seed, 512) for seed in range(120))
    ]
    late = results[-20:]
    clicks = np.concatenate([rows.column("click").to_numpy() for rows, _, _ in late])
    truth = np.concatenate(
        [
            click_probability(*(rows.column(c).to_numpy() for c in ("user_id", "item_id")))
            for rows, _, _ in late
        ]
    )
    ceiling = roc_auc_score(clicks, truth)
    reached = roc_auc_score(clicks, np.concatenate([p for _, p, _ in late]))
    assert reached > 0.5 + 0.75 * (ceiling - 0.5)
    assert np.mean([loss for *_, loss in late]) < np.mean([loss for *_, loss in results[:20]])


def test_dense_inputs_only_for_what_is_there():
    bare = ImpressionSchema(
        features=(Feature(name="user_id", kind="id"), Feature(name="item_id", kind="id"))
    )
    learner = Learner(config(cross_layers=0, hidden=(), batch_norm=False), bare)
    rows = STREAM[0].select(bare.arrow.names)
    losses = [learner.step(learner.to_batch(rows))[1] for _ in range(30)]
    assert losses[-1] < losses[0]
    assert set(learner.vocabulary_stats()) == {"user_id", "item_id"}


def test_hashed_tables_have_no_vocabulary(tmp_path):
    learner = Learner(config(ids=TableConfig(rows=128, vocabulary="hashed")), SCHEMA)
    expected = learn(learner, STREAM[:3])
    assert learner.vocabulary_stats() == {}
    write_state(learner.snapshot(), tmp_path)
    other = Learner(config(ids=TableConfig(rows=128, vocabulary="hashed")), SCHEMA)
    other.load(tmp_path)
    assert learn(other, STREAM[3:5]) == learn(learner, STREAM[3:5])
    assert len(expected) == 3


def test_historical_embeddings_have_a_place_and_count_only_where_they_exist():
    learner = Learner(config(history_slots=3), SCHEMA)
    learn(learner, STREAM[:5])
    batch = learner.to_batch(STREAM[5])
    without_B = learner.predict(batch)
    vectors_BHD = torch.randn(SIZE, 3, 16)
    mask_BH = torch.zeros(SIZE, 3)
    batch.history = History(vectors_BHD, vectors_BHD, mask_BH, mask_BH)
    np.testing.assert_allclose(learner.predict(batch), without_B, rtol=1e-6)
    mask_BH[: SIZE // 2] = 1.0
    with_B = learner.predict(batch)
    assert (with_B[: SIZE // 2] != without_B[: SIZE // 2]).all()
    np.testing.assert_allclose(with_B[SIZE // 2 :], without_B[SIZE // 2 :], rtol=1e-6)
    assert math.isfinite(learner.step(batch)[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_a_way_out():
    with pytest.raises(UserError, match="use device = cpu"):
        Learner(LevelConfig(device="cuda"), SCHEMA)


def test_a_full_disk_is_an_error(tmp_path):
    snapshot = Learner(config(), SCHEMA).snapshot()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # writes beyond it fail
    try:
        with pytest.raises(OSError, match="could not write the state"):
            write_state(snapshot, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
