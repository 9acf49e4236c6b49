import pytest

from config import Config
from errors import UserError
from settings import load
from trainers.settings import LevelConfig, ModelConfig
from trainers.transfer_settings import ActrConfig, CpmConfig


def settings(*overrides: str) -> Config:
    return load(Config, None, {}, overrides).config


def test_cpm_has_a_ctrs_model_seed_and_history_unless_told_otherwise():
    config = settings(
        "actr.model.hidden=[32]", "actr.model.dim=8", "actr.seed=3", "cpm.batch_size=64"
    )
    assert config.cpm.model == config.actr.model and config.cpm.model.hidden == (32,)
    assert (config.cpm.seed, config.cpm.batch_size) == (3, 64)
    assert settings("actr.history=true").cpm.history
    config = Config(actr=ActrConfig(model=ModelConfig(dim=8)), cpm=CpmConfig(batch_size=64))
    assert config.cpm.model.dim == 8 and config.cpm.batch_size == 64
    assert Config().cpm.model == Config().actr.model


def test_cpm_may_know_more_ids_where_they_are_matched_by_id():
    config = settings("actr.model.dim=8", "cpm.model.ids.rows=64000", "actr.transfer=delta")
    assert config.cpm.model.ids.rows == 64_000 and config.cpm.model.dim == 8
    with pytest.raises(UserError, match=r"cpm.model.ids.rows = 64000 is not A-CTR's 20000"):
        settings("cpm.model.ids.rows=64000", "actr.transfer=reinitialize")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cpm.model.dim=8"], "cpm.model.dim = 8 is not A-CTR's 16"),
        (["cpm.seed=1", "actr.transfer=delta"], "cpm.seed = 1 is not A-CTR's 0"),
        (["cpm.mode=scratch", "actr.transfer=delta"], "needs a CPM that learns onwards"),
        (["actr.model.dim=7"], "actr.model.dim"),
        (["actr.model=7"], "actr.model"),
        (["cpm.hand_down_hours=0"], "cpm.hand_down_hours"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(overrides, said):
    with pytest.raises(UserError, match=said) as refusal:
        settings(*overrides)
    assert "\n" not in str(refusal.value)


def test_the_cadence_is_the_modes_own():
    cpm = CpmConfig(hand_down_hours=6, window_hours=48)
    assert cpm.cadence_ms == 6 * 3_600_000
    for mode in ("weekly", "scratch"):
        assert cpm.model_copy(update={"mode": mode}).cadence_ms == 48 * 3_600_000


def test_other_levels_keep_their_own_settings():
    assert isinstance(Config().tpm, LevelConfig) and not hasattr(Config().tpm, "transfer")
