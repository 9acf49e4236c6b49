"""Who is in the market: users, items and creatives that come and go, and their interests.

A population is a fixed number of seats. Everybody stays in a seat for a while,
then leaves for good, and somebody new with a new serial number sits down. Who
sits where on a day is arithmetic, so no past has to be replayed to know it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.market_config import MarketConfig
from streaming.market_drift import Drift
from streaming.market_random import key_of, normals, uniforms

_FOREVER = 1 << 31


@dataclass(frozen=True)
class Occupants:
    serial: np.ndarray  # uint64 [N], never used twice
    age: np.ndarray  # int64 [N], whole days since arrival; no arrival precedes it


class Seats:
    """``count`` seats whose occupants stay ``lifetime`` days on average (0: for good)."""

    def __init__(self, seed: int, name: str, count: int, lifetime: int) -> None:
        self._count = count
        self._lifetime = lifetime
        self._life_key = key_of(seed, f"{name}.life")
        self._phase_key = key_of(seed, f"{name}.phase")

    def occupants(self, seat: np.ndarray, day: np.ndarray | int) -> Occupants:
        """Who sits in each of the seats [N] on ``day``, counted from the market's first."""
        life, phase = self._stay(seat)
        generation, age = np.divmod(day + phase, life)
        return Occupants((generation * self._count + seat).astype(np.uint64), age)

    def _stay(self, seat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._lifetime == 0:
            life = np.full(len(seat), _FOREVER, np.int64)
            return life, (uniforms(self._phase_key, seat) * 365).astype(np.int64)
        spread = 0.5 + uniforms(self._life_key, seat)
        life = np.maximum((spread * self._lifetime).astype(np.int64), 1)
        return life, (uniforms(self._phase_key, seat) * life).astype(np.int64)


class Interests:
    """Latent vectors of one kind of entity over time: a lasting, a seasonal, a drifting part.

    Every component has unit variance. The seasonal part is
    ``cos(2 pi t / season) a + sin(2 pi t / season) b``: opposite after half a
    season, back after a whole one. The drifting part goes from one random
    vector to the next in ``drift_days`` and does not come back.
    """

    def __init__(self, name: str, config: MarketConfig) -> None:
        self._name = f"interest.{name}"
        self._key = key_of(config.seed, self._name)
        self._config = config
        self._scenario = Drift(config)

    def at(self, serial: np.ndarray, day: float) -> np.ndarray:
        """float32 [N, dim] at time ``day``, in days since the market's beginning."""
        config = self._config
        lasting = 1.0 - config.season_share - config.drift_share
        phase = 2 * np.pi * day / config.season_days
        base, cosine, sine = np.split(normals(self._key, serial, 3 * config.dim), 3, axis=1)
        seasonal = np.float32(np.cos(phase)) * cosine + np.float32(np.sin(phase)) * sine
        seasonal *= np.float32(self._scenario.amplitude(day))
        vectors = _root(lasting) * base + _root(config.season_share) * seasonal
        if config.drift_share:
            vectors += _root(config.drift_share) * self._drifting(serial, day)
        return self._scenario.replace(self._name, vectors, serial, day)

    def _drifting(self, serial: np.ndarray, day: float) -> np.ndarray:
        step, way = divmod(day / self._config.drift_days, 1.0)
        ends = [
            normals(key_of(self._config.seed, f"{self._name}.drift.{knot}"), serial, self.dim)
            for knot in (int(step), int(step) + 1)
        ]
        weights = np.array([1 - way, way], np.float32) / np.float32(np.hypot(1 - way, way))
        return weights[0] * ends[0] + weights[1] * ends[1]

    @property
    def dim(self) -> int:
        return self._config.dim


class Users:
    """Activity by seat; segment, bias and interests by serial number."""

    def __init__(self, config: MarketConfig) -> None:
        self._config = config
        self.seats = Seats(config.seed, "user", config.users, config.user_lifetime_days)
        self._segment_key = key_of(config.seed, "user.segment")
        self._bias_key = key_of(config.seed, "user.bias")
        self._own = {name: Interests(f"user.{name}", config) for name in ("natural", "ad")}
        self._shared = {name: Interests(f"segment.{name}", config) for name in ("natural", "ad")}

    def segment(self, serial: np.ndarray) -> np.ndarray:
        return (uniforms(self._segment_key, serial) * self._config.segments).astype(np.int64)

    def bias(self, serial: np.ndarray) -> np.ndarray:
        return self._config.user_bias * normals(self._bias_key, serial, 1)[:, 0]

    def interests(self, domain: str, serial: np.ndarray, day: float) -> np.ndarray:
        """float32 [N, dim]: in ads, ``domain_conflict`` of the variance is the ad domain's own."""
        conflict = self._config.domain_conflict if domain == "ad" else 0.0
        vectors = _root(1 - conflict) * self._parts("natural", serial, day)
        if conflict:
            vectors += _root(conflict) * self._parts("ad", serial, day)
        return vectors

    def _parts(self, part: str, serial: np.ndarray, day: float) -> np.ndarray:
        share = self._config.attribute_share
        segments = np.arange(self._config.segments)
        of_segment = self._shared[part].at(segments, day)[self.segment(serial)]
        return _root(share) * of_segment + _root(1 - share) * self._own[part].at(serial, day)


class Items:
    """Category, quality and a vector that stays as it is, by serial number; creatives."""

    def __init__(self, config: MarketConfig) -> None:
        self._config = config
        self.seats = Seats(config.seed, "item", config.items, config.item_lifetime_days)
        self._category_key = key_of(config.seed, "item.category")
        self._quality_key = key_of(config.seed, "item.quality")
        self._own_key = key_of(config.seed, "item.vector")
        self._shared_key = key_of(config.seed, "category.vector")
        self._creative_key = key_of(config.seed, "creative.effect")
        self._creative_seats = Seats(config.seed, "creative", 1, config.creative_lifetime_days)

    def category(self, serial: np.ndarray) -> np.ndarray:
        return (uniforms(self._category_key, serial) * self._config.categories).astype(np.int64)

    def quality(self, serial: np.ndarray) -> np.ndarray:
        return self._config.quality * normals(self._quality_key, serial, 1)[:, 0]

    def vectors(self, serial: np.ndarray) -> np.ndarray:
        """float32 [N, dim], unit variance."""
        share, dim = self._config.attribute_share, self._config.dim
        categories = normals(self._shared_key, np.arange(self._config.categories), dim)
        own = normals(self._own_key, serial, dim)
        return _root(share) * categories[self.category(serial)] + _root(1 - share) * own

    def creatives(self, item: Occupants, choice: np.ndarray) -> np.ndarray:
        """Serial numbers uint64 [N] of creative ``choice`` [N] of each item at its age.

        The item's serial number is part of it, so creatives leave with their item.
        """
        slot = item.serial * np.uint64(self._config.creatives) + choice.astype(np.uint64)
        generation = self._creative_seats.occupants(slot, item.age).serial - slot
        return (slot << np.uint64(16)) + generation

    def creative_effect(self, creative: np.ndarray) -> np.ndarray:
        return self._config.creative_effect * normals(self._creative_key, creative, 1)[:, 0]


def _root(share: float) -> np.float32:
    return np.float32(np.sqrt(share))
