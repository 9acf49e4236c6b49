"""Configuration of the synthetic market, and its presets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from errors import UserError
from settings import Section
from streaming.market_drift import Scenario

GENERATION = 1
"""Raised whenever the same configuration gives other impressions than before."""

Preset = Literal["demo", "standard", "conflict", "large"]

_STANDARD: dict[str, Any] = {
    "days": 120,
    "users": 1_000,
    "items": 1_000,
    "advertised": 200,
    "dim": 3,
    "natural_per_day": 15_000,
    "ads_per_day": 1_000,
    "segments": 10,
    "categories": 20,
    "attribute_share": 0.4,
    "season_days": 60,
    "season_share": 0.4,
}

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {},
    "standard": _STANDARD,
    "conflict": {**_STANDARD, "domain_conflict": 0.5},
    "large": {
        "days": 30,
        "slots_per_day": 24,
        "users": 2_000_000,
        "items": 1_000_000,
        "advertised": 50_000,
        "segments": 100,
        "categories": 1_000,
        "dim": 8,
        "natural_per_day": 8_000_000,
        "ads_per_day": 500_000,
    },
}
"""What each preset sets; the rest keeps the defaults below, which are `demo`'s."""


class MarketConfig(Section):
    preset: Preset = "demo"
    """Values to start from; every key set explicitly wins over the preset."""
    seed: int = Field(0, ge=0)
    """Of everything random."""
    start: date = date(2025, 1, 1)
    """First day, UTC."""
    days: int = Field(48, ge=1)
    """Length, days of event time."""
    slots_per_day: Literal[1, 2, 3, 4, 6, 8, 12, 24] = 1
    """A slot is generated at once; recent items are as of its beginning."""
    natural_per_day: int = Field(70_000, ge=1)
    """Natural impressions a day."""
    ads_per_day: int = Field(4_400, ge=0)
    """Ad impressions a day."""
    natural_ctr: float = Field(0.10, gt=0, lt=1)
    """Click probability of natural impressions, mean; the intercept is fitted to it."""
    ad_ctr: float = Field(0.03, gt=0, lt=1)
    """Click probability of ad impressions, mean."""

    users: int = Field(300, ge=1)
    """Users present at any time."""
    items: int = Field(300, ge=1)
    """Items present at any time."""
    advertised: int = Field(40, ge=1)
    """How many of the items are advertised."""
    creatives: int = Field(3, ge=1)
    """Creatives that an advertised item has at any time."""
    user_zipf: float = Field(0.6, ge=0)
    """Zipf exponent of users' activity; 0: all alike."""
    item_zipf: float = Field(0.6, ge=0)
    """Zipf exponent of items' exposure."""
    user_lifetime_days: int = Field(360, ge=0)
    """Mean stay of a user, days; a new one takes the place of one who leaves. 0: for good."""
    item_lifetime_days: int = Field(180, ge=0)
    """Mean stay of an item, days. 0: for good."""
    creative_lifetime_days: int = Field(30, ge=0)
    """Mean stay of a creative, days; it leaves with its item at the latest. 0: with its item."""

    dim: int = Field(3, ge=1)
    """Dimensions of a latent interest."""
    segments: int = Field(8, ge=1)
    """Values of the users' observable attribute."""
    categories: int = Field(12, ge=1)
    """Values of the items' observable attribute."""
    attribute_share: float = Field(0.6, ge=0, le=1)
    """Share of an interest's variance that segment or category explains."""
    season_days: float = Field(24, gt=0)
    """After this time the seasonal part of every interest has returned, days."""
    season_share: float = Field(0.3, ge=0, le=1)
    """Share of an interest's variance that turns with the season."""
    drift_days: float = Field(120, gt=0)
    """Time in which the drifting part of an interest becomes another one, days."""
    drift_share: float = Field(0.1, ge=0, le=1)
    """Share of an interest's variance that drifts and does not return."""
    domain_conflict: float = Field(0.0, ge=0, le=1)
    """Share of an interest's variance that is the ad domain's own."""

    interest_strength: float = Field(1.2, ge=0)
    """Standard deviation of a natural impression's log-odds from interest."""
    ad_interest_strength: float = Field(1.4, ge=0)
    """The same for an ad."""
    quality: float = Field(0.3, ge=0)
    """Standard deviation of the log-odds from the item alone."""
    user_bias: float = Field(0.3, ge=0)
    """Standard deviation of the log-odds from the user alone."""
    creative_effect: float = Field(0.2, ge=0)
    """Standard deviation of the log-odds from an ad's creative."""
    novelty: float = Field(0.2, ge=0)
    """Log-odds that a brand-new item has over an old one."""
    hour_effect: float = Field(0.2, ge=0)
    """Amplitude of the log-odds over the day."""
    positions: int = Field(10, ge=1)
    """Positions of natural impressions."""
    ad_positions: int = Field(4, ge=1)
    """Positions of ads."""
    position_effect: float = Field(0.8, ge=0)
    """Log-odds lost between the first and the last natural position."""
    ad_position_effect: float = Field(0.4, ge=0)
    """The same for ads."""
    recent_items: int = Field(5, ge=0)
    """How many of a user's last clicked items an impression carries."""
    recent_days: int = Field(7, ge=1)
    """Clicks older than this are no longer recent, days."""

    drift: Scenario = "none"
    """What becomes of the market on `drift_day`; see docs/market.md."""
    drift_day: int = Field(24, ge=1)
    """First day of that, counted from 0."""

    @model_validator(mode="before")
    @classmethod
    def _preset_first(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**PRESETS.get(str(values.get("preset", "demo")), {}), **values}

    @model_validator(mode="after")
    def _fits(self) -> MarketConfig:
        if self.advertised > self.items:
            raise ValueError(f"advertised = {self.advertised} is more than items = {self.items}")
        if self.season_share + self.drift_share > 1:
            raise ValueError("season_share + drift_share is more than 1")
        return self

    @property
    def start_ms(self) -> int:
        """Beginning of the first day, ms since 1970-01-01 UTC."""
        return int(datetime(*self.start.timetuple()[:3], tzinfo=UTC).timestamp()) * 1_000

    @property
    def fingerprint(self) -> str:
        """16 hex digits that two markets share when one is the other's beginning."""
        unsaid = {"drift", "drift_day"} if self.drift == "none" else set()
        identity = self.model_dump(mode="json", exclude={"preset", "days"} | unsaid)
        text = json.dumps([GENERATION, identity], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def adjusted(config: MarketConfig, origins: Mapping[str, str], **flags: Any) -> MarketConfig:
    """``config`` with the flags that are not None laid over it, another preset included.

    Args:
        origins: who set each dotted key of the whole configuration; what a
            preset said has none, so that another preset may replace it.

    Raises:
        UserError: the flags and the configuration do not fit together.
    """
    stated = {
        name: getattr(config, name)
        for name in MarketConfig.model_fields
        if f"market.{name}" in origins
    }
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return MarketConfig(**{**stated, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["market", *(str(part) for part in first["loc"])])
        raise UserError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
