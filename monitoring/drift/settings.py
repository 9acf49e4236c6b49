"""Configuration of drift: what is watched, by which detector, how eagerly.

The defaults are what `make bench-drift` chose; docs/drift.md has the table.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from settings import Section

Signal = Literal["log_loss", "score", "ctr", "calibration"]
Domain = Literal["natural", "ad"]

HOUR_MS = 3_600_000
DAY_HOURS = 24


class AdwinConfig(Section):
    signals: tuple[Signal, ...] = ()
    """Signals that it watches; none: off."""
    delta: float = Field(0.05, gt=0, lt=1)
    """Significance of a difference between two parts of its window."""


class KswinConfig(Section):
    signals: tuple[Signal, ...] = ()
    """Signals that it watches; none: off."""
    alpha: float = Field(0.001, gt=0, lt=1)
    """Significance of its Kolmogorov-Smirnov test."""
    window: int = Field(60, ge=4, le=100_000)
    """Values it looks back over."""
    recent: int = Field(12, ge=2)
    """Newest values, which it compares with as many older ones drawn at random."""
    seed: int = 0
    """Of the drawing."""

    @model_validator(mode="after")
    def _enough_to_draw(self) -> KswinConfig:
        if 2 * self.recent > self.window:
            raise ValueError(f"window = {self.window} is less than twice recent = {self.recent}")
        return self


class PageHinkleyConfig(Section):
    signals: tuple[Signal, ...] = ("log_loss", "calibration")
    """Signals that it watches; none: off."""
    delta: float = Field(0.5, ge=0, le=1e6)
    """Difference from the mean that is nothing, standard deviations."""
    threshold: float = Field(6.0, gt=0, le=1e6)
    """Sum of differences beyond that which is an alarm, standard deviations."""


class EarlyConfig(Section):
    """Which alarms ask for an early refresh, and how often, where `closes_loop` is on."""

    domains: tuple[Domain, ...] = ("natural",)
    """Domains whose alarms ask: TPM and CPM learn natural impressions."""
    signals: tuple[Signal, ...] = ("log_loss",)
    """Signals whose alarms ask; an early refresh mends what the models know about *who* clicks."""
    cool_down_hours: float = Field(24.0, ge=0, le=87_600)
    """Event time after a request in which the same is not asked for again, hours."""
    budget_a_day: int = Field(2, ge=0, le=1_000)
    """Requests in a day of event time, those to TPM and to CPM together."""


class DriftConfig(Section):
    enabled: bool = True
    """Whether the monitor watches for drift; it reads all impressions for that."""
    natural_level: Literal["cpm", "tpm"] = "cpm"
    """Whose predictions of natural impressions are watched; the ads' are A-CTR's."""
    step_hours: int = Field(6, ge=1, le=DAY_HOURS)
    """Event time from one value of a signal to the next; a divisor of 24."""
    min_impressions: int = Field(100, ge=1)
    """A step with fewer has no value."""
    baseline_days: int = Field(14, ge=2, le=366)
    """A value is compared with those of the same time of day of this many days."""
    warm_up_days: int = Field(5, ge=2)
    """Fewer days than this are no baseline yet, nor again after an alarm."""
    adwin: AdwinConfig = AdwinConfig()
    kswin: KswinConfig = KswinConfig()
    page_hinkley: PageHinkleyConfig = PageHinkleyConfig()

    closes_loop: bool = False
    """Whether an alarm asks TPM to end its period early, and CPM to hand down early."""
    early: EarlyConfig = EarlyConfig()

    reference_days: int = Field(7, ge=1, le=366)
    """Features of a day are compared with those of this many days before it."""
    min_compared: int = Field(500, ge=1)
    """Of fewer values than this no distance is told: chance alone would be most of it."""
    hash_buckets: int = Field(64, ge=2, le=4096)
    """Buckets that ids and categories are hashed into to be compared."""
    seen_bits: int = Field(20, ge=10, le=32)
    """Two to this power: the bits that remember a feature's ids (docs/drift.md: how many ids)."""

    @model_validator(mode="after")
    def _fits(self) -> DriftConfig:
        if DAY_HOURS % self.step_hours:
            raise ValueError(f"step_hours = {self.step_hours} is no divisor of 24")
        if self.warm_up_days > self.baseline_days:
            raise ValueError("warm_up_days is more than baseline_days")
        return self

    @property
    def step_ms(self) -> int:
        return self.step_hours * HOUR_MS

    def domain_of(self, level: str) -> Domain | None:
        """The domain whose signals come from a level's predictions; None: nobody's."""
        domains: dict[str, Domain] = {self.natural_level: "natural", "actr": "ad"}
        return domains.get(level)
