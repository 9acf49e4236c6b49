import pytest

from config import Config
from errors import UserError
from monitoring.drift.settings import DriftConfig
from settings import load


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("drift.step_hours=5", "no divisor of 24"),
        ("drift.warm_up_days=30", "more than baseline_days"),
        ("drift.kswin.window=20", "less than twice recent"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, complaint):
    with pytest.raises(UserError, match=complaint):
        load(Config, None, {}, [given])


def test_each_domain_is_watched_by_one_level():
    assert [DriftConfig().domain_of(level) for level in ("tpm", "cpm", "actr")] == [
        None, "natural", "ad",
    ]  # fmt: skip
    assert DriftConfig(natural_level="tpm").domain_of("tpm") == "natural"
    assert DriftConfig(natural_level="tpm").domain_of("cpm") is None


def test_detectors_are_turned_on_by_naming_signals():
    loaded = load(Config, None, {}, ['drift.adwin.signals=["ctr"]', "drift.adwin.delta=0.01"])
    assert loaded.config.drift.adwin.signals == ("ctr",)
