"""What a cheap learner predicts on a market that drifts, as sums of steps and of days.

A logistic model of biases and factors in NumPy (that of `market_learnability`) learns
each domain by itself, every impression predicted before it is learnt. Scenarios are the
same market until `drift_day`, so that part is made once and every scenario goes on with
a copy of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import pyarrow as pa

from benchmarks.market_learnability import BIASES, SIDES, Factors
from monitoring.drift.features import DAY_MS, FeatureSketches
from monitoring.drift.settings import HOUR_MS, Domain, DriftConfig
from monitoring.drift.signals import Sums, sums_by_step
from monitoring.drift.watch import DOMAINS
from streaming.impressions import ImpressionSchema
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_drift import Scenario

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
DAYS, DRIFT_DAY = 50, 35
FINEST_HOURS = 1
ROWS = {"user_id": 4_096, "item_id": 4_096, "creative_id": 4_096}
"""Rows that ids are hashed into; attributes are small numbers themselves."""
SMALL = 64
BATCH = {"natural": 2_048, "ad": 512}
RATE = 0.1


@dataclass
class Recording:
    """What drift detection sees of one market, one domain."""

    sums: dict[int, Sums] = field(default_factory=dict)  # by step of FINEST_HOURS
    psi: dict[int, dict[str, float]] = field(default_factory=dict)  # by day's number


def market(seed: int, drift: Scenario) -> Market:
    return Market(
        MarketConfig(seed=seed, days=DAYS, natural_per_day=10_000, drift=drift, drift_day=DRIFT_DAY)
    )


class Domains:
    """A learner and its recording for each domain; copied where scenarios part."""

    def __init__(self) -> None:
        schema, config = ImpressionSchema(), DriftConfig()
        self._learners = {domain: _learner() for domain in DOMAINS}
        self._sketches = {domain: FeatureSketches(schema, config) for domain in DOMAINS}
        self.recordings: dict[Domain, Recording] = {domain: Recording() for domain in DOMAINS}

    def day(self, domain: Domain, rows: pa.RecordBatch) -> None:
        time, click = (rows.column(n).to_numpy() for n in ("event_time", "click"))
        probability = _progressive(self._learners[domain], rows, BATCH[domain])
        recording, sketches = self.recordings[domain], self._sketches[domain]
        recording.sums |= sums_by_step(time, click, probability, FINEST_HOURS * HOUR_MS)
        sketches.add(rows)
        sketches.add_scores(time, probability)
        day = int(time[0]) // DAY_MS
        sketches.advance((day + 1) * DAY_MS)
        recording.psi[day] = sketches.distances().psi


def record(seed: int) -> Iterator[tuple[Scenario, dict[Domain, Recording]]]:
    """Every scenario of one seed."""
    shared = Domains()
    _live(shared, market(seed, "none"), 0, DRIFT_DAY)
    for scenario in SCENARIOS:
        own = copy.deepcopy(shared)
        _live(own, market(seed, scenario), DRIFT_DAY, DAYS)
        yield scenario, own.recordings


def _live(domains: Domains, market: Market, first: int, last: int) -> None:
    for slot in market.days(first, last):
        for domain in DOMAINS:
            domains.day(domain, getattr(slot, domain))


def _learner() -> Factors:
    names = {name for side in SIDES for name in side} | set(BIASES)
    return Factors({n: ROWS.get(n, SMALL) for n in names}, dim=4, attributes=True, rate=RATE)


def _progressive(model: Factors, rows: pa.RecordBatch, batch: int) -> np.ndarray:
    """Probabilities float64 [N], each predicted before its impression was learnt."""
    names = {name for side in SIDES for name in side} | set(BIASES)
    columns = {
        n: rows.column(n).fill_null(0).to_numpy().astype(np.int64) % ROWS.get(n, SMALL)
        for n in names
    }
    click = rows.column("click").to_numpy().astype(float)
    parts = (slice(i, i + batch) for i in range(0, len(click), batch))
    return np.concatenate(
        [model.step({n: c[b] for n, c in columns.items()}, click[b]) for b in parts]
    )
