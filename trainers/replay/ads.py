"""The model that predicts the ads, run over the log: predict, then learn, batch by batch.

Legend: B impressions of a batch, N ad impressions of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
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
from trainers.checkpoint import Progress
from trainers.features import ModelBatch
from trainers.hand_down import HandDown
from trainers.held_back import held_back, unlearnt
from trainers.learner import Learner
from trainers.levels import level as find_level
from trainers.loop import Boundary
from trainers.ranks import Ranks
from trainers.relearning import Relearning
from trainers.replay.forgetting import Periods, Probe, Samples
from trainers.replay.histories import Histories, reached, with_history
from trainers.replay.level_run import Advance, run_level, settled, stepping
from trainers.replay.log import AD, DOMAIN, DOMAINS, RecordedLog
from trainers.replay.plan import Variant
from trainers.replay.results import Outcome, Predictions, Spent
from trainers.settings import LevelConfig
from trainers.take_over import Announced, TakeOver
from trainers.transfer import accept_deltas

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upstream:
    """What other levels hand down to an ad model, as far as there are any."""

    histories: Histories | None = None
    hand_downs: tuple[HandDown, ...] = ()


def ad_model(variant: Variant, config: Config) -> tuple[LevelConfig, ImpressionSchema]:
    """The ad model's configuration, and what it reads.

    A model that learns all impressions takes CPM's batches: A-CTR's may be as small as ads
    are few.

    Raises:
        UserError: the log has a column of its own where the domain would go.
    """
    level, schema = settled(find_level("actr", config).config), config.impressions
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
        learner, histories = Learner(level, schema), self.upstream.histories
        later = histories and histories.anew()  # batches are made ready ahead of the probe
        probe = Probe(
            self.samples,
            self.periods.ends(),
            lambda rows, end: self._sample(learner, later, rows, end),
            learner.predict,
        )
        again = Relearning[ModelBatch](self.config, lambda batches: _learnt(learner, batches))
        found: list[Predictions] = []
        settings, user = self.config.replay, self.log.schema.user

        def publish(batch: Batch, probability_B: NDArray[np.float32], step: int) -> None:
            found.append(_predictions(batch.rows, probability_B, self._ads(batch.rows), user))

        spent = run_level(
            self.log.batches(self.variant.learns, level.batch_size, settings.partitions),
            settings.read_ahead,
            lambda rows: self._weighted(with_history(learner.to_batch, histories)(rows), rows),
            key=reached(histories),
            learn=stepping(learner, lambda batch, ready: again.keep(ready, batch.watermark)),
            advance=advance,
            boundaries=[*self._take_over(learner, again), probe],
            publish=publish,
        )
        spent = Spent(spent.samples + again.samples, spent.seconds)
        return Outcome(_joined(found).in_order(), probe.finish(), {"actr": spent})

    def _take_over(self, learner: Learner, again: Relearning[ModelBatch]) -> list[Boundary]:
        if self.config.actr.transfer == "none":
            return []
        accept_deltas(learner, self.config.actr.transfer_waiting)
        announced = Announced()
        for hand_down in self.upstream.hand_downs:
            announced.put(hand_down)
        cadence_ms = self.config.cpm.cadence_ms
        boundary = TakeOver(
            learner,
            self.config.actr,
            announced,
            cadence_ms,
            Ranks(),
            log.info,
            Progress(),
            relearn=again.again,
        )
        return [boundary]

    def _weighted(self, batch: ModelBatch, rows: pa.RecordBatch) -> ModelBatch:
        """With weights of 0 for what is held back: that is predicted, and its click never seen."""
        share = self.config.replay.held_back
        if not share:
            return batch
        out_B = held_back(rows.column(IMPRESSION_ID).to_numpy(), share) & self._ads(rows)
        return unlearnt(batch, out_B)

    def _sample(
        self, learner: Learner, histories: Histories | None, rows: pa.RecordBatch, end: int
    ) -> ModelBatch:
        """Held-back ads as the model reads them, with the histories known at ``end``, ms."""
        if self.variant.by_domain:
            domain = pa.array(np.full(len(rows), DOMAINS.index(AD), np.int64))
            rows = rows.append_column(DOMAIN, domain)
        batch = learner.to_batch(rows)
        return batch if histories is None else histories.attach(batch, rows, as_of=end)

    def _ads(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        if len(self.variant.learns) == 1:
            return np.ones(len(rows), bool)
        return np.asarray(rows.column(DOMAIN).to_numpy() == DOMAINS.index(AD))


def _learnt(learner: Learner, batches: Sequence[ModelBatch]) -> int:
    for batch in batches:
        learner.step(batch)
    return sum(batch.rows for batch in batches)


def _predictions(
    rows: pa.RecordBatch, probability_B: NDArray[np.float32], ad_B: NDArray[np.bool_], user: str
) -> Predictions:
    ids, times, users, clicks = (
        rows.column(name).to_numpy() for name in (IMPRESSION_ID, EVENT_TIME, user, CLICK)
    )
    return Predictions(ids, times, users, clicks, probability_B).chosen(ad_B)


def _joined(parts: list[Predictions]) -> Predictions:
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Predictions)
    }
    return Predictions(**columns)
