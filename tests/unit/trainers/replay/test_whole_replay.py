"""Small replays from end to end, every variant among them."""

from dataclasses import replace

import numpy as np
import pytest
from replay_support import Silent, small_config, small_log, with_other_clicks

import trainers.replay.run
from config import Config
from errors import UserError
from streaming.impressions import ImpressionSchema
from trainers.replay.command import judge
from trainers.replay.log import AD, NATURAL, RecordedLog
from trainers.replay.parallel import run_pieces
from trainers.replay.plan import VARIANTS
from trainers.replay.results import Outcome
from trainers.replay.run import Replay
from trainers.replay.tables import rows

# Weeks and months are two days here, so that a log of eight days sees several.
SHORT = (("cpm.window_hours", "48"), ("history.period_hours", "48"))


def replay(path, out, config: Config | None = None, names=VARIANTS) -> dict[str, Outcome]:
    log = RecordedLog(path, ImpressionSchema())
    run = Replay(log, config or small_config(), out, Silent())
    variants = [VARIANTS[name] for name in names]
    return {v.name: run.outcome(replace(v, settings=(*v.settings, *SHORT))) for v in variants}


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


def test_what_tells_variants_apart_shows_in_their_predictions(outcomes):
    bits = {name: outcome.predictions.probability.tobytes() for name, outcome in outcomes.items()}
    assert len(set(bits.values())) == len(VARIANTS)


def test_each_level_counts_what_it_learnt(path, outcomes):
    log = RecordedLog(path, ImpressionSchema())
    natural, ads = log.spans[NATURAL].rows, log.spans[AD].rows
    spent = {
        name: {level: s.samples for level, s in outcome.spent.items()}
        for name, outcome in outcomes.items()
    }
    assert spent["ads-only"] == {"actr": ads}
    assert spent["joint"] == {"actr": natural + ads}
    assert spent["history-only"] == {"tpm": natural, "actr": ads}
    assert spent["full"] == {"tpm": natural, "cpm": natural, "actr": ads}
    assert all(outcomes["full"].spent[level].handed_down > 10_000 for level in ("tpm", "cpm"))
    # Three whole models, after each of which about a window's ads are learnt again.
    assert ads * 1.5 < spent["published"]["actr"] < ads * 2.5


def test_levels_in_common_are_run_once(path, tmp_path):
    names = ["published", "no-bn-reset", "history-only", "full"]
    replay(path, tmp_path, names=names)
    stages = sorted(folder.name.split("-")[0] for folder in (tmp_path / "stages").iterdir())
    assert stages == ["cpm", "cpm", "tpm"]


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
            # What is handed down names the folder it lies in.
            if not key.endswith(("_seconds", "_bytes")):
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

    from trainers.held_back import held_back

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


def test_pieces_in_processes_give_the_same_bits(path, outcomes, tmp_path):
    log, config = RecordedLog(path, ImpressionSchema()), small_config()
    names = ["ads-only", "published", "full"]
    plan = [replace(VARIANTS[n], settings=(*VARIANTS[n].settings, *SHORT)) for n in names]
    show = Silent()
    run = Replay(log, config, tmp_path, show)
    run_pieces(run, plan, 2, show)
    assert show.advanced == 1 + 2 + 3  # TPM serves both, each has a CPM of its own
    for variant in plan:
        found, expected = run.outcome(variant), outcomes[variant.name]
        assert found.predictions.probability.tobytes() == (
            expected.predictions.probability.tobytes()
        )
    assert show.known == [(name, True) for name in names]


def test_a_piece_that_fails_says_why(path, tmp_path):
    log = RecordedLog(path, ImpressionSchema())
    wild = replace(
        VARIANTS["ads-only"],
        settings=(*VARIANTS["ads-only"].settings, ("actr.optimizer.dense_learning_rate", "1e30")),
    )
    run = Replay(log, small_config(), tmp_path, Silent())
    with pytest.raises(UserError, match="diverged"):
        run_pieces(run, [wild], 2, Silent())
    assert not list(tmp_path.glob("variants/*/outcome.json"))
