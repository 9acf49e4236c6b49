"""The pure part of the method's benchmark: the tries of a variant, and the table over seeds."""

import math
from types import SimpleNamespace

import pytest

from benchmarks.method import BIAS, SETTINGS, WEIGHTS, rows, tries_of
from config import Config
from settings import load
from trainers.replay.plan import VARIANTS


@pytest.mark.parametrize("grid", [WEIGHTS, BIAS])
def test_every_variant_gets_the_same_tries_and_keeps_what_it_is_named_for(grid):
    for name in ("full", "joint"):
        tries = dict(tries_of(VARIANTS[name], grid))
        assert len(tries) == math.prod(map(len, grid.values()))
        for point, variant in tries.items():
            config = variant.applied(Config())
            rates = config.actr.optimizer.model_dump()
            assert [rates[rate] for rate in grid] == [float(value) for value in point]
            assert config.actr.transfer == VARIANTS[name].applied(Config()).actr.transfer
            assert config.cpm.optimizer == Config().cpm.optimizer


def test_ways_of_combining_periods_are_compared_at_the_rates_of_full():
    config = load(Config, SETTINGS, {}, []).config
    rates = VARIANTS["full"].applied(config).actr.optimizer
    assert rates != config.actr.optimizer
    for name in VARIANTS:
        if name.startswith("full-"):
            assert VARIANTS[name].applied(config).actr.optimizer == rates


def seed_of(full, joint):
    def line(name, gauc):
        spent = {"actr": SimpleNamespace(samples=1_000)}
        kept = SimpleNamespace(backward_transfer=gauc - 0.71)
        return SimpleNamespace(
            name=name, gauc=gauc, gap_closed=0.5, copc=1.0, forgetting=kept, spent=spent
        )

    lines = [line("joint", joint), line("full", full)]
    return SimpleNamespace(ceiling=0.9, lines=lines)


def test_the_table_has_means_and_paired_differences_over_seeds():
    found = dict(rows([seed_of(0.80, 0.79), seed_of(0.70, 0.69), seed_of(0.60, 0.59)]))
    assert found["full"].startswith("0.7000 (0.8000 0.7000 0.6000)")
    assert "COPC 1.00, BWT -0.010" in found["full"]
    assert "above" not in found["full"]
    # Seeds differ by far more than variants do: the difference is taken seed by seed.
    assert "full is above by +0.0100 (+0.0100 to +0.0100)" in found["joint"]
