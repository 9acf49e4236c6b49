import pytest
from replay_support import small_config

from config import Config
from errors import UserError
from trainers.replay.log import AD, DOMAINS
from trainers.replay.plan import VARIANTS, Variant, chosen, fingerprint, levels, with_settings


def test_variants_come_in_the_order_asked_for_and_once():
    assert [v.name for v in chosen(["joint", "ads-only", "joint"])] == ["joint", "ads-only"]
    with pytest.raises(UserError, match="no variant 'both'; there are ads-only"):
        chosen(["both"])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_fits_the_default_and_a_small_configuration(name):
    for config in (Config(), small_config()):
        applied = VARIANTS[name].applied(config)
        assert levels(applied)[-1] == "actr"
        assert applied.actr.batch_size == config.actr.batch_size


def test_a_variant_says_what_it_is_named_for_whatever_the_configuration():
    config = with_settings(Config(), (("actr.transfer", "delta"), ("actr.history", "true")))
    assert levels(config) == ("tpm", "cpm", "actr")
    alone = VARIANTS["ads-only"].applied(config)
    assert levels(alone) == ("actr",)
    expected = {
        "fine-tune": ("cpm", "actr"),
        "history-only": ("tpm", "actr"),
        "published": ("tpm", "cpm", "actr"),
        "full": ("tpm", "cpm", "actr"),
    }
    for name, names in expected.items():
        assert levels(VARIANTS[name].applied(config)) == names, name
    published = VARIANTS["published"].applied(config)
    assert published.cpm.mode == "scratch" and published.cpm.history
    assert not VARIANTS["no-bn-reset"].applied(config).actr.transfer_resets_batch_norm
    assert VARIANTS["ads-only"].learns == (AD,) and VARIANTS["joint"].learns == DOMAINS


def test_a_sweep_gives_every_combination():
    found = chosen(["ads-only"], ["history.periods=1,3", "actr.batch_size=64, 128"])
    assert [v.name for v in found] == [
        "ads-only periods=1 batch_size=64",
        "ads-only periods=1 batch_size=128",
        "ads-only periods=3 batch_size=64",
        "ads-only periods=3 batch_size=128",
    ]
    config = found[2].applied(Config())
    assert (config.history.periods, config.actr.batch_size) == (3, 64)


def test_a_variant_has_learning_rates_of_its_own_below_what_is_swept():
    rates = {"full": {"table_learning_rate": 0.01}}
    config = Config.model_validate({"replay": {"rates": rates}})
    others = Config().actr.optimizer
    assert VARIANTS["joint"].applied(config).actr.optimizer == others
    full = VARIANTS["full"].applied(config)
    assert full.actr.optimizer.table_learning_rate == 0.01
    assert full.actr.optimizer.dense_learning_rate == others.dense_learning_rate
    assert full.cpm.optimizer == Config().cpm.optimizer
    key = "actr.optimizer.table_learning_rate"
    (swept, _) = chosen(["full"], [f"{key}=0.5,0.6"])
    assert swept.applied(config).actr.optimizer.table_learning_rate == 0.5
    (periods,) = chosen(["full"], ["history.periods=2"])
    assert periods.applied(config).actr.optimizer.table_learning_rate == 0.01


def test_learning_rates_of_a_variant_that_does_not_exist_are_refused():
    config = Config.model_validate({"replay": {"rates": {"fall": {"table_learning_rate": 0.01}}}})
    with pytest.raises(UserError, match=r"replay.rates.fall: no such variant; there are ads-only"):
        VARIANTS["full"].applied(config)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("history.period=1", "did you mean history.periods"),
        ("history.periods", "expected key=v1,v2"),
        ("history.periods=", "expected key=v1,v2"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(sweep, message):
    with pytest.raises(UserError, match=message):
        chosen(["ads-only"], [sweep])


def test_values_that_do_not_fit_are_refused_in_one_line():
    with pytest.raises(UserError, match="history.periods=none"):
        with_settings(Config(), (("history.periods", "none"),))
    with pytest.raises(UserError, match="actr.batch_size=0.*greater"):
        with_settings(Config(), (("actr.batch_size", "0"),))


def test_cpm_has_from_a_ctr_what_a_setting_changes():
    base = Config.model_validate({"actr": {"model": {"dim": 8}, "seed": 3}})
    config = with_settings(base, (("actr.model.hidden", "[32]"), ("actr.seed", "4")))
    assert config.cpm.model.hidden == config.actr.model.hidden == (32,)
    assert config.cpm.model.dim == 8 and config.cpm.seed == 4


def test_fingerprints_tell_results_apart():
    one, other = small_config(), small_config()
    assert fingerprint(one.actr, "x") == fingerprint(other.actr, "x")
    changed = with_settings(one, (("actr.seed", "1"),))
    assert fingerprint(changed.actr, "x") != fingerprint(one.actr, "x")
    assert Variant("a", "b") == Variant("a", "b")
