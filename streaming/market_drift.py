"""How a market changes for the worse from one day on, to score alarms on.

Before ``drift_day`` a market is bit for bit the one without drift, and so are its
random numbers after it: only what the scenario is about differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from streaming.market_random import generator, key_of, normals

if TYPE_CHECKING:
    from streaming.market_config import MarketConfig

Scenario = Literal[
    "none", "sudden", "gradual", "seasonal", "broken-feature", "label-outage", "bot-flood"
]

REPLACED = 0.6
"""Share of an interest's variance that `sudden` and `gradual` replace by something new."""
GRADUAL_DAYS = 10.0
"""What `sudden` does at once `gradual` does in this time, days."""
AMPLITUDE = 2.5
"""What `seasonal` multiplies the seasonal part of every interest by."""
BROKEN = "segment"
"""The feature that `broken-feature` makes 0."""
BOTS = 3
"""Accounts that `bot-flood` takes over: the least active seats."""
BOT_SHARE = 0.15
"""Share of all impressions that are then theirs."""
BOT_CTR = 0.5
"""Click probability of a bot's impression, whatever it shows."""


class Drift:
    """What of a market's scenario is in force on a day."""

    def __init__(self, config: MarketConfig) -> None:
        self._config = config

    def _on(self, scenario: Scenario, day: float) -> bool:
        return self._config.drift == scenario and day >= self._config.drift_day

    def breaks_feature(self, day: float) -> bool:
        return self._on("broken-feature", day)

    def loses_clicks(self, day: float) -> bool:
        return self._on("label-outage", day)

    def amplitude(self, day: float) -> float:
        return AMPLITUDE if self._on("seasonal", day) else 1.0

    def replace(self, name: str, vectors: np.ndarray, serial: np.ndarray, day: float) -> np.ndarray:
        """Interests [N, dim] of which a share of the variance is now another's, its sum kept."""
        share = self._replaced(day)
        if not share:
            return vectors
        other = normals(key_of(self._config.seed, f"{name}.replaced"), serial, vectors.shape[1])
        return np.float32(np.sqrt(1 - share)) * vectors + np.float32(np.sqrt(share)) * other

    def _replaced(self, day: float) -> float:
        if self._on("sudden", day):
            return REPLACED
        if self._on("gradual", day):
            return REPLACED * min((day - self._config.drift_day) / GRADUAL_DAYS, 1.0)
        return 0.0

    def bots(self, stream: str, slot: int, seat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whose impressions a slot's are then, and which of them [N] are a bot's."""
        config = self._config
        if not self._on("bot-flood", slot / config.slots_per_day):
            return seat, np.zeros(len(seat), bool)
        uniform = generator(config.seed, f"{stream}.bots", slot).random((2, len(seat)))
        of_bot = uniform[0] < BOT_SHARE
        bot = config.users - 1 - (uniform[1] * min(BOTS, config.users)).astype(np.int64)
        return np.where(of_bot, bot, seat), of_bot
