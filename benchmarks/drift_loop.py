"""Does the loop that drift closes win GAUC back sooner than the schedule?

    python -m benchmarks.drift_loop [--seeds 1,2,3,4,5,6,7] [--threshold 4] [--out run/drift-loop]

TPM's periods and CPM's hand-downs come every week; from one day on 60 % of every interest is
another (`sudden`), or nothing changes at all (`none`). Detectors watch CPM's own predictions as
the monitor does, `monitoring.drift.asking` decides with its shipped settings, and what it asks
for becomes a boundary at the end of the next hour, as in the trainers. An early period changes
what CPM reads from then on, so the passes are made again until nothing new is asked for: what
comes before an early boundary stays as it was. Seeds 1 to 7 have the drift on each day of the
schedule's week. What a market came to is kept in --out and not done again.

Beside the schedule and the loop, on `sudden`: `told`, where the same is asked for two days after
the drift, whatever the detectors say.
A day has some thirty clicks, so GAUC is its expectation over the market's true probabilities.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.method import SETTINGS
from benchmarks.report import publish
from config import Config
from monitoring.comparison import mean_with_interval
from monitoring.drift.asking import Policy, Verdict
from monitoring.drift.settings import DAY_HOURS, HOUR_MS, DriftConfig
from monitoring.drift.watch import Alarm, DriftWatch
from settings import load
from streaming.control import ASKS, Ask, Request
from streaming.impressions import CLICK, EVENT_TIME, Batch
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_drift import Scenario
from streaming.market_files import write_slots
from trainers.replay.ads import AdRun, Upstream
from trainers.replay.forgetting import Periods, samples_of
from trainers.replay.histories import Histories
from trainers.replay.log import AD, RecordedLog, true_probabilities
from trainers.replay.plan import CHANGES, NEWEST, Variant
from trainers.replay.results import Predictions
from trainers.replay.stages import load_stage, run_cpm, run_tpm

DAY_MS = DAY_HOURS * HOUR_MS
WEEK = 7  # days
FIRST_DRIFT_DAY, AFTER = 21, 10  # days
TOLD_DAYS = 2.0
WINDOWS = ((-7, 0), (0, 2), (2, 4), (4, 7), (7, 10), (0, 10))  # days since the drift
SCENARIOS: tuple[Scenario, ...] = ("sudden", "none")
# The name begins with that of the variant whose learning rates it has.
WEEKLY = Variant(
    "full weekly",
    "hand-downs and history every week",
    (*CHANGES, *NEWEST, ("cpm.mode", "weekly"), ("cpm.window_hours", "168")),
)


@dataclass(frozen=True)
class Played:
    """What one market came to."""

    drift_day: int
    alarms: list[tuple[float, str]]  # of natural impressions: days since the drift, signal
    early: list[tuple[float, str]]  # asked for with the loop on: days since, what
    statistic: list[tuple[float, float]]  # what the log loss' detector decides by, since the drift
    gauc: dict[str, dict[str, float]]  # by way of handing down and window or day since the drift


@dataclass
class Watched:
    """What the monitor would make of a level's predictions of natural impressions."""

    watch: DriftWatch
    policy: Policy
    step_ms: int
    alarms: list[Alarm] = field(default_factory=list)
    statistics: dict[int, float] = field(default_factory=dict)  # of the log loss, by event time
    requests: list[Request] = field(default_factory=list)

    def __call__(self, batch: Batch, probability_B: np.ndarray, version: int) -> None:
        time_B, click_B = (batch.rows.column(n).to_numpy() for n in (EVENT_TIME, CLICK))
        self.watch.update_predictions("natural", time_B, click_B, probability_B)
        alarms = self.watch.advance("natural", batch.watermark)
        step = batch.watermark // self.step_ms * self.step_ms
        if step not in self.statistics:
            found = self.watch.figures().statistics
            self.statistics[step] = found["natural", "log_loss", "page_hinkley"]
        for alarm in alarms:
            self.alarms.append(alarm)
            decisions = self.policy.decide(alarm)
            self.requests += [d.request for d in decisions if d.verdict is Verdict.ASKED]


class Levels:
    """TPM and CPM over a log, and the ad model on what they hand down."""

    def __init__(self, log: RecordedLog, config: Config, drift: DriftConfig, folder: Path) -> None:
        self.log, self._drift = log, drift
        self._config, self._folder = config, folder
        self._periods = Periods(log.start, log.end, config.replay.periods)
        self._samples = samples_of(log.stretches((AD,)), self._periods, 0.0, log.schema)

    def above(self, variant: Variant, early: Sequence[Request] = ()) -> tuple[Upstream, Watched]:
        """TPM and CPM, with a boundary besides the schedule's for each of ``early``."""
        config = variant.applied(self._config)
        tpm, cpm = self._folder / "tpm", self._folder / "cpm"
        shutil.rmtree(self._folder, ignore_errors=True)
        run_tpm(self.log, config, tpm, _quiet, boundaries(early, "period"))
        histories = Histories(tpm, config.history, config.tpm.model.dim, config.impressions)
        watch = DriftWatch(self._drift, config.impressions)
        watched = Watched(watch, Policy(self._drift), self._drift.step_ms)
        besides = boundaries(early, "hand-down")
        run_cpm(self.log, config, histories.anew(), cpm, _quiet, besides, watched)
        stage = load_stage(cpm)
        assert stage is not None
        return Upstream(histories, stage.hand_downs), watched

    def ads(self, variant: Variant, upstream: Upstream) -> Predictions:
        config = variant.applied(self._config)
        run = AdRun(variant, config, self.log, self._samples, self._periods, upstream)
        return run.run(_quiet).predictions


def boundaries(requests: Iterable[Request], ask: Ask) -> list[int]:
    """Where requests for ``ask`` are obeyed, ms: at the end of the hour after the alarm."""
    return [(r.at // HOUR_MS + 1) * HOUR_MS for r in requests if r.ask == ask]


def looped(levels: Levels, upstream: Upstream, watched: Watched) -> tuple[Upstream, list[Request]]:
    """What is handed down with the loop on, and what was asked for; without: the arguments."""
    early: list[Request] = []
    while (wanted := _at_first(watched.requests, len(early))) != early:
        early = wanted
        upstream, watched = levels.above(WEEKLY, early)
    return upstream, early


def _at_first(requests: list[Request], known: int) -> list[Request]:
    """Those that are known, and of the others the first alarm's."""
    new = requests[known:]
    return requests[:known] + [r for r in new if r.at == new[0].at]


def play(seed: int, scenario: Scenario, drift: DriftConfig, out: Path) -> Played:
    """One market, every way of handing down; from a file if it was played before."""
    told = out / f"{scenario}-{seed}-{drift.page_hinkley.threshold:g}.json"
    if not told.exists():
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(vars(_play(seed, scenario, drift, out))))
    return Played(**json.loads(told.read_text()))


def _play(seed: int, scenario: Scenario, drift: DriftConfig, out: Path) -> Played:
    market = out / "market"
    drift_day = FIRST_DRIFT_DAY + seed % WEEK
    settings = MarketConfig(
        preset="standard",
        seed=seed,
        days=drift_day + AFTER,
        drift=scenario,
        drift_day=drift_day,
    )
    shutil.rmtree(market, ignore_errors=True)
    for _ in write_slots(Market(settings), market):
        pass
    config = load(Config, SETTINGS, {}, ["replay.held_back=0"]).config
    levels = Levels(RecordedLog(market, config.impressions), config, drift, out / "levels")
    since = settings.start_ms + drift_day * DAY_MS
    ways: dict[str, Predictions] = {}
    upstream, watched = levels.above(WEEKLY)
    ways["schedule"] = ways["loop"] = levels.ads(WEEKLY, upstream)
    upstream, early = looped(levels, upstream, watched)
    if early:
        ways["loop"] = levels.ads(WEEKLY, upstream)
    if scenario != "none":
        at = since + round(TOLD_DAYS * DAY_MS)
        told = [Request(ask, at, "natural", "log_loss") for ask in ASKS]
        ways["told"] = levels.ads(WEEKLY, levels.above(WEEKLY, told)[0])
    return Played(
        drift_day,
        alarms=[((a.event_time - since) / DAY_MS, a.signal) for a in watched.alarms],
        early=[((r.at - since) / DAY_MS, r.ask) for r in early],
        statistic=[
            (day, x)
            for at, x in watched.statistics.items()
            if (day := (at - since) / DAY_MS) > 0 and not math.isnan(x)
        ],
        gauc={way: dict(_windows(found, since, levels.log)) for way, found in ways.items()},
    )


def _windows(found: Predictions, since: int, log: RecordedLog) -> Iterator[tuple[str, float]]:
    """Expected GAUC of every window and day."""
    truth_N = true_probabilities(log, found.impression_id)
    assert truth_N is not None
    days = [(day, day + 1) for day in range(-WEEK, AFTER)]
    time_N = (found.event_time - since) / DAY_MS
    for first, last in (*WINDOWS, *days):
        within_N = (time_N >= first) & (time_N < last)
        chosen = found.chosen(within_N)
        yield _name(first, last), expected_gauc(chosen.user, truth_N[within_N], chosen.probability)


def expected_gauc(user_N: np.ndarray, truth_N: np.ndarray, score_N: np.ndarray) -> float:
    """GAUC where impression i counts as ``truth_N[i]`` of a click and as the rest of a non-click.

    Of each user, over pairs of two impressions, the share of click weight that is scored above
    non-click weight, ties one half; users weighted by impressions, those with one left out.
    """
    order = np.lexsort((score_N, user_N))
    users = np.split(order, np.flatnonzero(np.diff(user_N[order])) + 1)
    pairs = [_expected_auc(truth_N[of], score_N[of]) for of in users if len(of) > 1]
    return float(np.average(pairs, weights=[len(of) for of in users if len(of) > 1]))


def _expected_auc(truth_K: np.ndarray, score_K: np.ndarray) -> float:
    above_KK = (score_K[:, None] > score_K) + 0.5 * (score_K[:, None] == score_K)
    weight_KK = truth_K[:, None] * (1 - truth_K)
    np.fill_diagonal(weight_KK, 0.0)
    return float((above_KK * weight_KK).sum() / weight_KK.sum())


def _name(first: int, last: int) -> str:
    return f"{first} to {last}"


def _quiet(impressions: int) -> None:
    pass


# -- what is told ------------------------------------------------------------------------


def rows(played: Sequence[Played]) -> Iterator[tuple[str, str]]:
    """A line for each window and day: means over markets, differences from the schedule."""
    for first, last in (*WINDOWS, *((day, day + 1) for day in range(-1, AFTER))):
        values = {way: [p.gauc[way][_name(first, last)] for p in played] for way in played[0].gauc}
        yield f"days {_name(first, last)}", ", ".join(_compared(values))
    hand_downs = [[round(day, 2) for day, what in p.early if what == "hand-down"] for p in played]
    yield "early hand-downs, days since the drift", str(hand_downs)
    yield "alarms", str([[(round(day, 2), signal) for day, signal in p.alarms] for p in played])
    greatest = [max(x for day, x in p.statistic if day <= WEEK) for p in played]
    yield "greatest statistic in the week after", " ".join(f"{x:.1f}" for x in greatest)


def _compared(values: dict[str, list[float]]) -> Iterator[str]:
    schedule = values["schedule"]
    for way, found in values.items():
        text = f"{way} {statistics.mean(found):.4f}"
        if way != "schedule" and len(found) > 1:
            better = mean_with_interval([a - b for a, b in zip(found, schedule, strict=True)])
            low, high = better.interval.low, better.interval.high
            text += f" ({better.difference:+.4f}, {low:+.4f} to {high:+.4f})"
        yield text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="1,2,3,4,5,6,7", help="separated by commas")
    parser.add_argument("--out", type=Path, default=Path("run/drift-loop"))
    parser.add_argument(
        "--threshold", type=float, help="of Page-Hinkley (default: as shipped); lower tells more"
    )
    options = parser.parse_args()
    drift = DriftConfig(closes_loop=True)
    if options.threshold is not None:
        own = drift.page_hinkley.model_copy(update={"threshold": options.threshold})
        drift = drift.model_copy(update={"page_hinkley": own})
    seeds = [int(seed) for seed in options.seeds.split(",")]
    found: dict[str, Any] = {}
    played = {(s, name): play(s, name, drift, options.out) for s in seeds for name in SCENARIOS}
    for scenario in SCENARIOS:
        of = [played[seed, scenario] for seed in seeds]
        found |= {f"{scenario}, {what}": text for what, text in rows(of)}
    publish("drift_loop", found)


if __name__ == "__main__":
    main()
