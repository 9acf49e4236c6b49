"""Small replays from end to end, every variant among them."""

import numpy as np
import pytest
from replay_support import small_config, small_log, with_other_clicks

import trainers.replay.run
from config import Config
from streaming.impressions import ImpressionSchema
from trainers.replay.command import judge
from trainers.replay.log import AD, RecordedLog
from trainers.replay.plan import VARIANTS
from trainers.replay.results import Outcome
from trainers.replay.run import Replay
from trainers.replay.tables import rows


class Silent:
    def __init__(self) -> None:
        self.advanced, self.known = 0, []

    def began(self, what, impressions):
        def advance(count: int) -> None:
            self.advanced += count

        return advance

    def ended(self, what, known):
        self.known.append((what, known))


def replay(path, out, config: Config | None = None, names=VARIANTS) -> dict[str, Outcome]:
    log = RecordedLog(path, ImpressionSchema())
    run = Replay(log, config or small_config(), out, Silent())
    return {name: run.outcome(VARIANTS[name]) for name in names}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("log") / "market")


@pytest.fixture(scope="module")
def outcomes(path, tmp_path_factory):
    return replay(path, tmp_path_factory.mktemp("first"))


def test_every_variant_predicts_every_ad_once_in_order(path, outcomes):
    log = RecordedLog(path, ImpressionSchema())
    expected = np.concatenate(
        [batch.rows.column("impression_id").to_numpy() for batch in log.batches((AD,), 500)]
    )
    for outcome in outcomes.values():
        assert np.array_equal(outcome.predictions.impression_id, expected)
        p = outcome.predictions.probability
        assert p.dtype == np.float32 and ((p > 0) & (p < 1)).all()
        assert np.isfinite(np.diagonal(outcome.retained)).any()
        assert outcome.spent["actr"].samples >= log.spans[AD].rows


def test_the_same_log_and_configuration_give_the_same_bits(path, outcomes, tmp_path):
    again = replay(path, tmp_path)
    for name, outcome in outcomes.items():
        assert again[name].predictions.probability.tobytes() == (
            outcome.predictions.probability.tobytes()
        ), name
        assert again[name].retained.tobytes() == outcome.retained.tobytes(), name
    log, config = RecordedLog(path, ImpressionSchema()), small_config()
    for one, other in zip(
        rows(judge(outcomes, log, config)), rows(judge(again, log, config)), strict=True
    ):
        for key in one:
            if not key.endswith("_seconds"):
                assert one[key] == other[key] or one[key] != one[key], key


def test_nothing_looks_ahead(path, outcomes, tmp_path):
    """Turn every click round after some moment: no prediction up to it changes, but later ones."""
    log = RecordedLog(path, ImpressionSchema())
    after = log.start + (log.end - log.start) * 6 // 10
    changed = replay(with_other_clicks(path, tmp_path / "log", after), tmp_path / "out")
    for name, outcome in outcomes.items():
        early = outcome.predictions.event_time <= after
        before = outcome.predictions.probability
        now = changed[name].predictions.probability
        assert before[early].tobytes() == now[early].tobytes(), name
        assert (before[~early] != now[~early]).any(), name


def test_what_is_done_is_not_done_again(path, tmp_path, monkeypatch):
    first = replay(path, tmp_path, names=["ads-only", "merged"])

    class Refusing:
        def __init__(self, *_):
            raise AssertionError("ran again")

    monkeypatch.setattr(trainers.replay.run, "AdRun", Refusing)
    again = replay(path, tmp_path, names=["ads-only", "merged"])
    for name, outcome in first.items():
        assert np.array_equal(again[name].predictions.probability, outcome.predictions.probability)
        assert again[name].spent == outcome.spent
    with pytest.raises(AssertionError, match="ran again"):
        replay(path, tmp_path, small_config(held_back=0.2), names=["ads-only"])
    next(tmp_path.glob("variants/ads-only-*/outcome.json")).unlink()
    with pytest.raises(AssertionError, match="ran again"):
        replay(path, tmp_path, names=["ads-only"])


def test_clicks_that_are_held_back_are_never_learnt(path, tmp_path):
    """Turn only those round: no prediction changes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trainers.replay.forgetting import held_back

    config = small_config(held_back=0.3)
    before = replay(path, tmp_path / "one", config, ["ads-only", "joint"])
    copy = with_other_clicks(path, tmp_path / "log", 2**62)
    for file in (copy / "ad").glob("*.parquet"):
        table = pq.read_table(file)
        out = held_back(table.column("impression_id").to_numpy(), 0.3)
        click = table.column("click").to_numpy()
        turned = pa.array(np.where(out, 1 - click, click).astype(np.int8))
        place = table.column_names.index("click")
        pq.write_table(table.set_column(place, table.schema.field("click"), turned), file)
    after = replay(copy, tmp_path / "other", config, ["ads-only", "joint"])
    for name, outcome in before.items():
        assert np.array_equal(outcome.predictions.probability, after[name].predictions.probability)
        assert not np.array_equal(outcome.predictions.click, after[name].predictions.click)
