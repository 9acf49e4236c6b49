"""What a level still knows of past periods: held-back impressions, scored by each new version.

What is held back of one period of event time is a sample of it. When the watermark passes the
period's end, before anything beyond it is learnt, all samples so far are scored: R[i, j], GAUC on
the sample of period j after learning up to period i. A version scores them once more, for itself
alone, so that R depends on the log only and not on when checkpoints are taken.

An impression that comes when its period is over is held back all the same and belongs to no
sample. A sample without a user who both clicked and did not tells nothing and is not kept.

Ranks hold samples of what they read; all of them score together and know the same R.

Legend: B impressions of a batch, K of a sample, N of all samples, P periods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.metrics import forgetting, gauc
from monitoring.recalled import Recalled
from streaming.impressions import EVENT_TIME, IMPRESSION_ID, Batch, ImpressionSchema
from trainers.cadence import Cadence
from trainers.features import ModelBatch
from trainers.forgetting_settings import ForgettingConfig
from trainers.held_back import held_back, is_unlearnt, unlearnt
from trainers.ranks import Ranks
from trainers.samples import Held, Sample, held_of, joined, with_history

Retained = NDArray[np.float64]

_USERS = np.int64(0x5851F42D4C957F2D)
"""Users are drawn apart from impressions; and 0, who often is everyone unknown, by chance, too."""


class Model(Protocol):
    """As much of `trainers.learner.Learner` as is needed."""

    def to_batch(self, rows: pa.RecordBatch, pad_to: int | None = None) -> ModelBatch: ...

    def predict(self, batch: ModelBatch) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class RecallState:
    """All there is to know of one rank."""

    period_ms: int
    closed: int = 0  # ms
    retained: Retained = field(default_factory=lambda: np.empty((0, 0)))
    """[P, P], the same on all ranks."""
    samples: tuple[Held, ...] = ()  # of the P periods
    open: tuple[Held, ...] = ()  # parts of the period that is not over
    halvings: int = 0  # of that one


class Recall:
    """Holds impressions back, and scores them; the loop's `Boundary`.

    Args:
        schema: what the model reads.
    """

    def __init__(
        self,
        model: Model,
        schema: ImpressionSchema,
        config: ForgettingConfig,
        ranks: Ranks,
        state: RecallState | None = None,
    ) -> None:
        self._model, self._schema, self._config, self._ranks = model, schema, config, ranks
        self._cadence = Cadence(config.period_ms)
        if state is None or state.period_ms != config.period_ms:  # other periods: begin anew
            state = RecallState(config.period_ms)
        self._closed = state.closed
        self._samples, self.retained = list(state.samples), state.retained
        self._open = self._new_sample(state.halvings)
        for held in state.open:
            self._open.add(held)
        self._ready: ModelBatch | None = None  # all samples
        self.held_back = 0
        """Impressions of this rank that were not learnt so far."""

    def _new_sample(self, halvings: int = 0) -> Sample:
        return Sample(self._schema, max(1, self._config.rows // self._ranks.size), halvings)

    @property
    def held(self) -> int:
        """Impressions in this rank's samples."""
        return sum(map(len, self._samples)) + len(self._open)

    # -- what comes in --------------------------------------------------------------------

    def hold_back(self, batch: ModelBatch, rows: pa.RecordBatch) -> ModelBatch:
        """``batch``, made of ``rows``, with weights of 0 for what is not to be learnt.

        Decided by the ids alone, so that what is learnt again leaves out the same. May be
        called from any thread.
        """
        ids_B = rows.column(IMPRESSION_ID).to_numpy()
        user_B = rows.column(self._schema.user).to_numpy()
        config = self._config
        out_B = held_back(ids_B, config.share) & held_back(user_B ^ _USERS, config.user_share)
        return unlearnt(batch, out_B)

    def learning(self, rows: pa.RecordBatch, made: ModelBatch) -> None:
        """The batch ``made``, of ``rows``, is learnt next, but for what is held back of it."""
        out_B = is_unlearnt(made)
        self.held_back += int(out_B.sum())
        chosen_B = out_B & (rows.column(EVENT_TIME).to_numpy() >= self._closed)
        if chosen_B.any():
            self._open.add(held_of(rows, made, chosen_B, self._schema))

    # -- periods ----------------------------------------------------------------------------

    def due(self, batch: Batch) -> bool:
        return self._cadence.begin(batch.watermark) > self._closed

    def act(self, batch: Batch | None) -> dict[str, int]:
        watermark = max(self._ranks.exchange(0 if batch is None else batch.watermark))
        begin = self._cadence.begin(watermark)
        if begin > self._closed:
            self._close()
            self._closed = begin
        return {}

    def _close(self) -> None:
        """The open period, the only one that impressions were noted for, is over."""
        sample = joined(self._open.parts, self._schema)
        self._open = self._new_sample()
        if not any(self._ranks.exchange(len(sample))):
            return
        self._change([*self._samples, sample])
        score_P = self._scores()
        if math.isnan(score_P[-1]):
            self._change(self._samples[:-1])
            return
        self.retained = _grown(self.retained, score_P)
        self._change(self._samples[-self._config.periods :])
        self.retained = self.retained[-self._config.periods :, -self._config.periods :]

    def _change(self, samples: Sequence[Held]) -> None:
        self._samples, self._ready = list(samples), None

    # -- scores -----------------------------------------------------------------------------

    def recalled(self) -> Recalled:
        """What the model knows now; call it on all ranks, with nothing under way."""
        score_P = self._scores()
        lost = forgetting(np.vstack([self.retained, score_P]))
        return Recalled(lost.backward_transfer, lost.forgetting, tuple(score_P[::-1].tolist()))

    def _scores(self) -> NDArray[np.float64]:
        """[P] GAUC on each sample, over all ranks."""
        bounds = [0, *accumulate(map(len, self._samples))]
        size = max(self._ranks.exchange(bounds[-1]))
        if not size:
            return np.full(len(self._samples), math.nan)
        probability_N = self._model.predict(self._prepared(size))
        own = [
            (held.user(self._schema), held.click(), probability_N[begin:end])
            for held, (begin, end) in zip(self._samples, pairwise(bounds), strict=True)
        ]
        found = []
        for parts in zip(*self._ranks.exchange(own), strict=True):
            user_K, click_K, probability_K = (np.concatenate(c) for c in zip(*parts, strict=True))
            sound = bool(np.isfinite(probability_K).all())  # a model that diverged knows nothing
            found.append(gauc(user_K, click_K, probability_K).weighted if sound else math.nan)
        return np.array(found)

    def _prepared(self, size: int) -> ModelBatch:
        """All samples of this rank, as many rows as on the others."""
        if self._ready is None:
            whole = joined(self._samples, self._schema)
            self._ready = with_history(self._model.to_batch(whole.rows, size), whole)
        return self._ready

    # -- for a checkpoint -------------------------------------------------------------------

    def state(self) -> RecallState:
        """Nothing of it is changed later."""
        return RecallState(
            self._config.period_ms,
            self._closed,
            self.retained,
            tuple(self._samples),
            tuple(self._open.parts),
            self._open.halvings,
        )


def _grown(retained: Retained, score_P: NDArray[np.float64]) -> Retained:
    """With one more row and column; what lies ahead of a period's end is not known."""
    count = len(score_P)
    grown = np.full((count, count), math.nan)
    grown[:-1, :-1] = retained
    grown[-1] = score_P
    return grown
