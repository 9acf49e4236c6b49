"""The model that predicts the ads, run over the log: predict, then learn, batch by batch.

Legend: B impressions of a batch, N ad impressions of the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from config import Config
from errors import UserError
from streaming.impressions import (
    CLICK,
    EVENT_TIME,
    IMPRESSION_ID,
    Batch,
    Feature,
    ImpressionSchema,
)
from trainers.features import ModelBatch
from trainers.learner import Learner
from trainers.replay.forgetting import Periods, Probe, Samples, held_back
from trainers.replay.log import AD, DOMAIN, DOMAINS, RecordedLog
from trainers.replay.plan import Variant
from trainers.replay.results import Outcome, Predictions, Spent
from trainers.replay.streams import ahead
from trainers.settings import LevelConfig

Advance = Callable[[int], None]
"""Told how many impressions were learnt."""


class Upstream(Protocol):
    """What other levels hand down, by event time."""

    def before(self, batch: Batch, learner: Learner) -> None:
        """Called before ``batch`` is predicted."""

    def attach(self, batch: ModelBatch, rows: pa.RecordBatch) -> ModelBatch:
        """``batch`` with the historical embeddings of ``rows``."""


class Nothing:
    """No other level."""

    def before(self, batch: Batch, learner: Learner) -> None:
        pass

    def attach(self, batch: ModelBatch, rows: pa.RecordBatch) -> ModelBatch:
        return batch


def ad_model(variant: Variant, config: Config) -> tuple[LevelConfig, ImpressionSchema]:
    """The ad model's configuration, and what it reads.

    A model that learns all impressions takes CPM's batches: A-CTR's may be as small as ads
    are few.

    Raises:
        UserError: the log has a column of its own where the domain would go.
    """
    level, schema = config.actr, config.impressions
    if not level.threads:
        # How sums are split over threads decides their last bits.
        level = level.model_copy(update={"threads": 1})
    if variant.learns != (AD,):
        level = level.model_copy(update={"batch_size": config.cpm.batch_size})
    if not variant.by_domain:
        return level, schema
    if DOMAIN in schema.arrow.names:
        raise UserError(f"'{variant.name}' adds a feature '{DOMAIN}', which the log has already")
    feature = Feature(name=DOMAIN, kind="categorical")
    fields = {name: getattr(schema, name) for name in type(schema).model_fields}
    schema = ImpressionSchema(**fields | {"features": (*schema.features, feature)})
    model = level.model.model_copy(update={"domain": DOMAIN, "domains": len(DOMAINS)})
    return level.model_copy(update={"model": model}), schema


@dataclass(frozen=True)
class AdRun:
    """A variant's ad model over the whole log, with what it is handed down."""

    variant: Variant
    config: Config
    log: RecordedLog
    samples: Samples
    periods: Periods
    upstream: Upstream

    def run(self, advance: Advance) -> Outcome:
        """Raises UserError when the model diverges, among others."""
        level, schema = ad_model(self.variant, self.config)
        learner = Learner(level, schema)
        probe = Probe(
            self.samples,
            self.periods.ends(),
            lambda rows: self._ready(learner, rows),
            learner.predict,
        )
        found: list[Predictions] = []
        settings = self.config.replay
        batches = self.log.batches(self.variant.learns, level.batch_size, settings.partitions)
        started, learnt = time.perf_counter(), 0
        for batch, prepared in ahead(
            batches, lambda b: learner.to_batch(b.rows), settings.read_ahead
        ):
            self.upstream.before(batch, learner)
            probe.before(batch.watermark)
            ad_B = self._ads(batch.rows)
            ready = self.upstream.attach(self._weighted(prepared, batch.rows, ad_B), batch.rows)
            probability_B, loss = learner.step(ready)
            if not np.isfinite(loss):
                raise UserError(
                    f"'{self.variant.name}' diverged after {learnt} impressions: take smaller "
                    "learning rates (actr.optimizer)"
                )
            found.append(_predictions(batch.rows, probability_B, ad_B, self.log.schema.user))
            learnt += len(batch)
            advance(len(batch))
        retained = probe.finish()
        spent = {"actr": Spent(learnt, time.perf_counter() - started)}
        return Outcome(_joined(found).in_order(), retained, spent)

    def _ads(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        if len(self.variant.learns) == 1:
            return np.ones(len(rows), bool)
        return np.asarray(rows.column(DOMAIN).to_numpy() == DOMAINS.index(AD))

    def _weighted(
        self, prepared: ModelBatch, rows: pa.RecordBatch, ad_B: NDArray[np.bool_]
    ) -> ModelBatch:
        """What is held back weighs nothing: it is predicted, and its click never seen."""
        share = self.config.replay.held_back
        if not share:
            return prepared
        out_B = held_back(rows.column(IMPRESSION_ID).to_numpy(), share) & ad_B
        weight_B = prepared.weight_B.masked_fill(torch.from_numpy(out_B), 0.0)
        return replace(prepared, weight_B=weight_B)

    def _ready(self, learner: Learner, rows: pa.RecordBatch) -> ModelBatch:
        """A sample of ads as the model reads it."""
        if self.variant.by_domain:
            domain = pa.array(np.full(len(rows), DOMAINS.index(AD), np.int64))
            rows = rows.append_column(DOMAIN, domain)
        return self.upstream.attach(learner.to_batch(rows), rows)


def _predictions(
    rows: pa.RecordBatch, probability_B: NDArray[np.float32], ad_B: NDArray[np.bool_], user: str
) -> Predictions:
    columns = (rows.column(name).to_numpy() for name in (IMPRESSION_ID, EVENT_TIME, user, CLICK))
    return Predictions(*columns, probability_B).chosen(ad_B)


def _joined(parts: list[Predictions]) -> Predictions:
    names = Predictions.__dataclass_fields__
    return Predictions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
