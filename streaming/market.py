"""A synthetic market of natural and ad impressions, with the probabilities that made them.

Time is cut into slots of a day or less. A slot's impressions depend on the
configuration and the slot's number alone, so they are the same whatever was
asked for before, in whatever batches they are written, and at whatever rate.
The only thing that a slot takes from earlier ones is each user's recent clicks;
they reach back ``recent_days`` at most, so that is all that has to be made
again to start in the middle. docs/market.md has the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from streaming.impressions import ImpressionSchema
from streaming.market_config import MarketConfig
from streaming.market_drift import BOT_CTR, BROKEN, Drift
from streaming.market_population import Items, Occupants, Users
from streaming.market_random import generator, key_of, spread63, zipf_ranks
from streaming.market_recent import RecentItems

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
SLOT_BITS = 32
"""An impression id is its slot's number, shifted by this, plus its rank in the slot."""
DOMAINS = ("natural", "ad")

_CALIBRATION_SLOTS, _CALIBRATION_ROWS = 16, 4_096
_NOVELTY_DAYS = 14.0
_AGE_SCALE = np.float32(1 / np.log1p(365.0))
_SCHEMA = ImpressionSchema().arrow


@dataclass(frozen=True)
class Slot:
    """The impressions of one slot, each domain's in the order of event time."""

    index: int
    natural: pa.RecordBatch  # the default schema, creative_id null
    ad: pa.RecordBatch  # the default schema
    natural_probability: np.ndarray  # float64, true click probability row by row
    ad_probability: np.ndarray


@dataclass(frozen=True)
class _Drawn:
    """One domain's impressions of a slot before they have ids; arrays of N rows."""

    event_time: np.ndarray  # int64, ms, ascending
    seat: np.ndarray  # int64, the user's
    user: Occupants
    item: Occupants
    creative: np.ndarray | None  # uint64 serial numbers
    position: np.ndarray  # int64
    click_draw: np.ndarray  # float64 in [0, 1)
    log_odds: np.ndarray  # float64, without the intercept


class Market:
    """Impressions of `config`, slot by slot."""

    def __init__(self, config: MarketConfig) -> None:
        self.config = config
        self._users = Users(config)
        self._items = Items(config)
        self._drift = Drift(config)
        self._id_keys = {
            kind: key_of(config.seed, f"{kind}.id") for kind in ("user", "item", "creative")
        }
        exposure = generator(config.seed, "item.exposure")
        self._item_at_rank = exposure.permutation(config.items)
        self._slot_ms = DAY_MS // config.slots_per_day

    @property
    def slot_count(self) -> int:
        return self.config.days * self.config.slots_per_day

    def days(self, first: int = 0, last: int | None = None) -> Iterator[Slot]:
        """The slots of days ``first`` to ``last`` (exclusive; default: the market's end)."""
        per_day = self.config.slots_per_day
        return self.slots(first * per_day, None if last is None else last * per_day)

    def slots(self, first: int = 0, last: int | None = None) -> Iterator[Slot]:
        """Slots ``first`` to ``last`` (exclusive), after making what recent items need."""
        recent = RecentItems(self.config.users, self.config.recent_items, self.config.recent_days)
        warm_up = max(0, first - (self.config.recent_days + 1) * self.config.slots_per_day)
        for index in range(warm_up, first):
            self._learn_clicks(recent, index, self._draw_both(index))
        for index in range(first, self.slot_count if last is None else last):
            drawn = self._draw_both(index)
            yield self._slot(index, drawn, recent)
            self._learn_clicks(recent, index, drawn)

    def _draw_both(self, index: int) -> dict[str, _Drawn]:
        return {name: self._draw(name, name, index, self._rows(name, index)) for name in DOMAINS}

    def _rows(self, domain: str, index: int) -> int:
        config = self.config
        per_day = config.natural_per_day if domain == "natural" else config.ads_per_day
        low, high = _share_of_day(self._hours(index))
        return round(per_day * high) - round(per_day * low)

    def _hours(self, index: int) -> np.ndarray:
        """Hours of the day at which the slot begins and ends."""
        within = index % self.config.slots_per_day
        return np.array([within, within + 1]) * (self._slot_ms / HOUR_MS)

    def _draw(self, stream: str, domain: str, index: int, rows: int) -> _Drawn:
        """``rows`` impressions, random numbers from ``stream``."""
        config = self.config
        uniform = generator(config.seed, stream, index).random((6, rows))
        day, ad = index // config.slots_per_day, domain == "ad"
        seat = zipf_ranks(uniform[1], config.users, config.user_zipf)
        seat, of_bot = self._drift.bots(stream, index, seat)
        exposed = config.advertised if ad else config.items
        item_seat = zipf_ranks(uniform[2], exposed, config.item_zipf)
        if not ad:  # in ads another order, and advertised are the first seats
            item_seat = self._item_at_rank[item_seat]
        user = self._users.seats.occupants(seat, day)
        item = self._items.seats.occupants(item_seat, day)
        event_time = self._event_times(index, uniform[0])
        positions = config.ad_positions if ad else config.positions
        position = zipf_ranks(uniform[3], positions, 0.5)
        creative = None
        if ad:
            choice = (uniform[4] * config.creatives).astype(np.int64)
            creative = self._items.creatives(item, choice)
        log_odds = self._interest(domain, index, user.serial, item.serial)
        log_odds += self._context(domain, item, position, event_time)
        if creative is not None:
            log_odds += self._items.creative_effect(creative)
        if of_bot.any():
            log_odds[of_bot] = np.log(BOT_CTR / (1 - BOT_CTR)) - self.intercepts[domain]
        return _Drawn(event_time, seat, user, item, creative, position, uniform[5], log_odds)

    def _event_times(self, index: int, uniform: np.ndarray) -> np.ndarray:
        hours = self._hours(index)
        low, high = _share_of_day(hours)
        hour = np.interp(low + np.sort(uniform) * (high - low), _DAY_SHARE, np.arange(25))
        begin = self.config.start_ms + index * self._slot_ms
        ms = ((hour - hours[0]) * HOUR_MS).astype(np.int64)
        return begin + np.clip(ms, 0, self._slot_ms - 1)

    def _interest(self, domain: str, index: int, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float64 [N] log-odds from interest, user and item: each entity is worked out once."""
        config = self.config
        day = index / config.slots_per_day
        users, user_row = _distinct(user)
        items, item_row = _distinct(item)
        strength = config.ad_interest_strength if domain == "ad" else config.interest_strength
        interests = self._users.interests(domain, users, day) * np.float32(
            strength / np.sqrt(config.dim)
        )
        affinity = np.einsum(
            "nd,nd->n", interests[user_row], self._items.vectors(items)[item_row]
        ).astype(np.float64)
        affinity += self._users.bias(users)[user_row]
        affinity += self._items.quality(items)[item_row]
        return affinity

    def _context(
        self, domain: str, item: Occupants, position: np.ndarray, event_time: np.ndarray
    ) -> np.ndarray:
        """float64 [N] log-odds from position, hour and the item's age."""
        config = self.config
        if domain == "ad":
            effect, positions = config.ad_position_effect, config.ad_positions
        else:
            effect, positions = config.position_effect, config.positions
        by_position = -effect * np.log1p(np.arange(positions)) / np.log1p(max(positions - 1, 1))
        by_hour = config.hour_effect * np.sin(2 * np.pi * (np.arange(24) - 14) / 24)
        hour = event_time % DAY_MS // HOUR_MS
        novelty = config.novelty * np.exp(-np.minimum(item.age, 365) / _NOVELTY_DAYS)
        return by_position[position] + by_hour[hour] + novelty

    @cached_property
    def intercepts(self) -> dict[str, float]:
        """Per domain, fitted to its click probability on impressions of the first two seasons.

        ``days`` and ``drift`` have no part in it, so a longer market begins like a shorter
        one, and one that drifts like one that does not.
        """
        if self.config.drift != "none":
            return Market(self.config.model_copy(update={"drift": "none"})).intercepts
        wanted = {"natural": self.config.natural_ctr, "ad": self.config.ad_ctr}
        last = 2 * self.config.season_days * self.config.slots_per_day
        spread = np.linspace(0, last, _CALIBRATION_SLOTS).astype(int)
        return {
            name: _intercept(
                np.concatenate(
                    [
                        self._draw(f"calibrate.{name}", name, index, _CALIBRATION_ROWS).log_odds
                        for index in spread.tolist()
                    ]
                ),
                wanted[name],
            )
            for name in DOMAINS
        }

    def _probability(self, domain: str, drawn: _Drawn) -> np.ndarray:
        return _sigmoid(drawn.log_odds + self.intercepts[domain])

    def _learn_clicks(self, recent: RecentItems, index: int, drawn: dict[str, _Drawn]) -> None:
        day = index // self.config.slots_per_day
        clicked = {n: d.click_draw < self._probability(n, d) for n, d in drawn.items()}
        time = np.concatenate([drawn[n].event_time[clicked[n]] for n in DOMAINS])
        order = np.argsort(time, kind="stable")
        seat = np.concatenate([drawn[n].seat[clicked[n]] for n in DOMAINS])[order]
        item = np.concatenate([drawn[n].item.serial[clicked[n]] for n in DOMAINS])[order]
        recent.add(seat, self._ids("item", item), day)

    def _ids(self, kind: str, serial: np.ndarray) -> np.ndarray:
        return spread63(serial, self._id_keys[kind])

    def _slot(self, index: int, drawn: dict[str, _Drawn], recent: RecentItems) -> Slot:
        natural, ad = drawn["natural"], drawn["ad"]
        time = np.concatenate([natural.event_time, ad.event_time])
        rank = np.empty(len(time), np.int64)
        rank[np.argsort(time, kind="stable")] = np.arange(len(time))
        ids = (index << SLOT_BITS) + rank
        probability = {name: self._probability(name, drawn[name]) for name in DOMAINS}
        day = index // self.config.slots_per_day
        cut = len(natural.event_time)
        return Slot(
            index,
            self._rows_of(natural, ids[:cut], probability["natural"], recent, day),
            self._rows_of(ad, ids[cut:], probability["ad"], recent, day),
            probability["natural"],
            probability["ad"],
        )

    def _rows_of(
        self, d: _Drawn, ids: np.ndarray, probability: np.ndarray, recent: RecentItems, day: int
    ) -> pa.RecordBatch:
        creative = pa.nulls(len(ids), pa.int64())
        if d.creative is not None:
            creative = pa.array(self._ids("creative", d.creative))
        clicks_arrive = not self._drift.loses_clicks(day)
        columns = {
            "impression_id": ids,
            "event_time": d.event_time,
            "click": ((d.click_draw < probability) & clicks_arrive).astype(np.int8),
            "user_id": self._ids("user", d.user.serial),
            "item_id": self._ids("item", d.item.serial),
            "creative_id": creative,
            "recent_items": recent.lists(d.seat, d.user.age, day),
            "segment": self._users.segment(d.user.serial),
            "category": self._items.category(d.item.serial),
            "position": d.position,
            "hour": d.event_time % DAY_MS // HOUR_MS,
            "user_age": np.log1p(d.user.age).astype(np.float32) * _AGE_SCALE,
            "item_age": np.log1p(d.item.age).astype(np.float32) * _AGE_SCALE,
        }
        if self._drift.breaks_feature(day):
            columns[BROKEN] = np.zeros(len(ids), np.int64)
        return pa.RecordBatch.from_arrays(
            [pa.array(columns[field.name], field.type) for field in _SCHEMA], schema=_SCHEMA
        )


def _distinct(serial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values and every row's place among them."""
    values, rows = np.unique(serial, return_inverse=True)
    return values, rows


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-log_odds))


def _intercept(log_odds: np.ndarray, mean: float) -> float:
    """The intercept that gives these log-odds the mean probability ``mean``, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if _sigmoid(log_odds + middle).mean() < mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


_TRAFFIC = 1 + 0.6 * np.sin(2 * np.pi * (np.arange(24) - 13) / 24)
_DAY_SHARE = np.concatenate([[0.0], np.cumsum(_TRAFFIC) / _TRAFFIC.sum()])
"""Share of a day's impressions before each full hour: quietest at 7, busiest at 19 UTC."""


def _share_of_day(hours: np.ndarray) -> np.ndarray:
    return np.interp(hours, np.arange(25), _DAY_SHARE)
