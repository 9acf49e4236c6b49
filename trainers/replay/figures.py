"""From predictions to figures: what a report says, as plain data. No torch.

Legend: N ad impressions in order of event time, W windows, V variants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitoring.comparison import Difference, gauc_differences
from monitoring.metrics import (
    NAN,
    Bin,
    Forgetting,
    auc,
    calibration,
    copc,
    forgetting,
    gauc,
    normalized_entropy,
)
from trainers.replay.results import Outcome, Predictions, Spent
from trainers.replay.settings import ReplayConfig

BASELINE = "ads-only"
"""The variant that gaps are measured from."""


@dataclass(frozen=True)
class Line:
    """One variant's figures, over the impressions after the warm-up."""

    name: str
    gauc: float
    gauc_unweighted: float
    auc: float
    ne: float
    copc: float
    gap_closed: float
    """Share of the way from the baseline to the ceiling; NaN where either is not known."""
    forgetting: Forgetting
    spent: dict[str, Spent]


@dataclass(frozen=True)
class Figures:
    impressions: int
    """Ad impressions that the lines are over."""
    users: int
    """Users among them with a click and a non-click."""
    ceiling: float
    """GAUC of the true probabilities; NaN where they are not known."""
    lines: list[Line]
    pairs: dict[tuple[str, str], Difference]
    times_W: list[int]
    """Middles of the windows, ms."""
    curves_VW: dict[str, list[float]]
    """GAUC of each variant, over the whole log."""
    ceiling_W: list[float]
    calibration: dict[str, list[Bin]]
    retained: dict[str, NDArray[np.float64]]


def figures(
    outcomes: dict[str, Outcome],
    truth_N: NDArray[np.float64] | None,
    config: ReplayConfig,
    start: int,
    end: int,
) -> Figures:
    """What ``outcomes`` of the same N impressions come to.

    Args:
        truth_N: true probabilities of a click, in the order of the predictions.
        start, end: event times between which the log lies, ms.
    """
    first = next(iter(outcomes.values())).predictions
    judged_N = first.event_time >= start + config.warmup_share * (end - start)
    judged = {name: outcome.predictions.chosen(judged_N) for name, outcome in outcomes.items()}
    common = first.chosen(judged_N)
    ceiling = _gauc(common, None if truth_N is None else truth_N[judged_N])
    values = {name: _gauc(p, p.probability) for name, p in judged.items()}
    windows = np.linspace(start, end + 1, config.windows + 1)
    return Figures(
        impressions=len(common),
        users=gauc(common.user, common.click, common.probability).groups_used,
        ceiling=ceiling,
        lines=[
            _line(name, outcomes[name], judged[name], _share(values, name, ceiling))
            for name in outcomes
        ],
        pairs=_pairs(judged, config),
        times_W=[int(t) for t in (windows[1:] + windows[:-1]) / 2],
        curves_VW={
            name: _curve(o.predictions, o.predictions.probability, windows)
            for name, o in outcomes.items()
        },
        ceiling_W=_curve(first, truth_N, windows),
        calibration={
            name: [b for b in calibration(p.click, p.probability) if b.impressions]
            for name, p in judged.items()
        },
        retained={name: outcome.retained for name, outcome in outcomes.items()},
    )


def _gauc(rows: Predictions, probability_N: NDArray[np.floating] | None) -> float:
    if probability_N is None:
        return NAN
    return gauc(rows.user, rows.click, probability_N).weighted


def _share(values: dict[str, float], name: str, ceiling: float) -> float:
    floor = values.get(BASELINE, NAN)
    gap = ceiling - floor
    return (values[name] - floor) / gap if gap else NAN


def _line(name: str, outcome: Outcome, rows: Predictions, gap_closed: float) -> Line:
    quality = gauc(rows.user, rows.click, rows.probability)
    return Line(
        name=name,
        gauc=quality.weighted,
        gauc_unweighted=quality.unweighted,
        auc=auc(rows.click, rows.probability),
        ne=normalized_entropy(rows.click, rows.probability),
        copc=copc(rows.click, rows.probability),
        gap_closed=gap_closed,
        forgetting=forgetting(outcome.retained),
        spent=outcome.spent,
    )


def _pairs(
    judged: dict[str, Predictions], config: ReplayConfig
) -> dict[tuple[str, str], Difference]:
    names = list(judged)
    rows = judged[names[0]]
    found = gauc_differences(
        rows.user,
        rows.click,
        [judged[name].probability for name in names],
        resamples=config.resamples,
        seed=config.seed,
    )
    return {(names[a], names[b]): difference for (a, b), difference in found.items()}


def _curve(
    rows: Predictions, probability_N: NDArray[np.floating] | None, edges: NDArray[np.float64]
) -> list[float]:
    if probability_N is None:
        return [NAN] * (len(edges) - 1)
    cuts = np.searchsorted(rows.event_time, edges)
    return [
        gauc(rows.user[a:b], rows.click[a:b], probability_N[a:b]).weighted
        for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
