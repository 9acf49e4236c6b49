"""Configuration of a replay (no torch is imported here)."""

from __future__ import annotations

from pydantic import Field

from settings import Section
from trainers.settings import OptimizerConfig


class ReplayConfig(Section):
    warmup_share: float = Field(0.5, ge=0, lt=1)
    """Share of the log's time, from its beginning, that is learnt but left out of the figures."""
    windows: int = Field(24, ge=1, le=1_000)
    """Windows of event time, over the whole log, for curves."""
    periods: int = Field(8, ge=1, le=64)
    """Periods of event time that the forgetting matrix is over."""
    held_back: float = Field(0.1, ge=0, lt=1)
    """Share of the ad impressions that are predicted but never learnt, to measure forgetting on."""
    partitions: int = Field(1, ge=1, le=4_096)
    """Partitions of the topic that the log stands for; with 1 nothing is late."""
    rates: dict[str, OptimizerConfig] = Field(default_factory=dict)
    """A-CTR's learning rates by variant, where they are not `actr.optimizer`'s: one that is
    handed knowledge down has its own best ones."""
    resamples: int = Field(1_000, ge=100, le=100_000)
    """Draws of users for the interval of a difference."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of those draws."""
    read_ahead: int = Field(32, ge=1, le=1_000)
    """Batches that are made ready in one go, while others are learnt."""
