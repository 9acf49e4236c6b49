"""Alarms, scored: how often each detector cries wolf, and how late it tells of a real drift.

    python -m benchmarks.drift_score [--tuning 101,102] [--seeds 1,2,3]

Every detector of every setting watches every signal of a cheap learner's predictions on
every scenario of the market. On the tuning seeds, each detector gets the setting and the
signals that tell soonest of those with at most HALF of the alarms that are allowed; on the
other seeds, which played no part in that, everything is reported. Recordings and alarms of
a seed are kept in --out and not made again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import pickle
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.drift_market import DAYS, DRIFT_DAY, SCENARIOS, Recording, record
from benchmarks.report import publish
from monitoring.drift.detectors import DETECTORS
from monitoring.drift.settings import (
    DAY_HOURS,
    AdwinConfig,
    Domain,
    DriftConfig,
    KswinConfig,
    PageHinkleyConfig,
    Signal,
)
from monitoring.drift.signals import SIGNALS, values_of
from monitoring.drift.watch import DOMAINS, SignalWatch
from streaming.market_drift import Scenario
from trainers.replay.svg import trade_off

ALLOWED_A_WEEK = 1.0
"""False alarms of a domain, all signals together; half of that where settings are chosen."""
HORIZON = 14
"""A drift that is not told within this many days is missed, and counts as so many."""
DRIFTS = [name for name in SCENARIOS if name != "none"]

Alarms = dict[str, dict[str, dict[str, list[float]]]]
"""By setting, then `domain/scenario`, then signal: days since the market's beginning."""


def grid() -> dict[str, DriftConfig]:
    """One detector in one setting each, on every signal."""
    off = DriftConfig(page_hinkley=PageHinkleyConfig(signals=()))
    found = {}
    for delta in (0.2, 0.05, 0.01, 0.002, 0.0002):
        own = AdwinConfig(signals=SIGNALS, delta=delta)
        found[f"adwin delta={delta:g}"] = off.model_copy(update={"adwin": own})
    for alpha in (0.005, 0.0005, 0.00005):
        kswin = KswinConfig(signals=SIGNALS, alpha=alpha)
        found[f"kswin alpha={alpha:g}"] = off.model_copy(update={"kswin": kswin})
    for delta, thresholds in ((0.25, (8, 12, 18)), (0.5, (5, 8, 12, 18)), (1.0, (4, 6, 9, 12))):
        for threshold in thresholds:
            own_ = PageHinkleyConfig(signals=SIGNALS, delta=delta, threshold=threshold)
            name = f"page_hinkley delta={delta:g} threshold={threshold}"
            found[name] = off.model_copy(update={"page_hinkley": own_})
    return found


def alarms_of(seed: int, out: Path) -> Alarms:
    """Of one seed's markets, every setting of the grid, from the file that keeps them or anew."""
    path = out / f"{seed}.json"
    if not path.exists():
        found: Alarms = {name: {} for name in grid()}
        recordings = recordings_of(seed, out)
        for domain, (name, config) in itertools.product(DOMAINS, grid().items()):
            of_domain = {scenario: r[domain] for scenario, r in recordings.items()}
            for scenario, alarms in _watched(of_domain, domain, config).items():
                found[name][f"{domain}/{scenario}"] = alarms
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    loaded: Alarms = json.loads(path.read_text())
    return loaded


def recordings_of(seed: int, out: Path) -> dict[Scenario, dict[Domain, Recording]]:
    path = out / f"{seed}.pickle"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(dict(record(seed))))
    found: dict[Scenario, dict[Domain, Recording]] = pickle.loads(path.read_bytes())
    return found


def _watched(
    recordings: dict[str, Recording], domain: Domain, config: DriftConfig
) -> dict[str, dict[str, list[float]]]:
    """By scenario and signal. What scenarios share is watched once."""
    steps = {scenario: _values(recording, config) for scenario, recording in recordings.items()}
    first = min(steps["none"])
    per_day = DAY_HOURS // config.step_hours
    parting = first + DRIFT_DAY * per_day
    found: dict[str, dict[str, list[float]]] = {scenario: {} for scenario in recordings}
    for signal in SIGNALS:
        watch = SignalWatch(domain, signal, config)
        before = [s for s in steps["none"] if s < parting]
        shared = [s for s in before if watch.update(s, steps["none"][s][signal])]
        for scenario, values in steps.items():
            own = copy.deepcopy(watch)
            late = [s for s in sorted(values) if s >= parting and own.update(s, values[s][signal])]
            found[scenario][signal] = [(s + 1 - first) / per_day for s in shared + late]
    return found


def _values(recording: Recording, config: DriftConfig) -> dict[int, dict[Signal, float]]:
    sums: dict[int, object] = {}
    for hour, part in recording.sums.items():
        step = hour // config.step_hours
        sums[step] = sums[step] + part if step in sums else part
    return {step: values_of(s, config.min_impressions) for step, s in sorted(sums.items())}


@dataclass(frozen=True)
class Score:
    """Of one domain: a setting on some signals, over some seeds."""

    before: float  # false alarms a day before the drift
    week: float  # false alarms a week of the market without drift
    delays: dict[str, list[float]]  # by scenario, a seed each: days; HORIZON: missed

    @property
    def delay(self) -> float:
        """Mean days over scenarios and seeds."""
        return statistics.mean(itertools.chain.from_iterable(self.delays.values()))

    def missed(self, scenario: str) -> int:
        return sum(days >= HORIZON for days in self.delays[scenario])


def score(
    domain: str, runs: Sequence[dict[str, dict[str, list[float]]]], signals: Iterable[str]
) -> Score:
    """``runs``: of each seed, alarms by `domain/scenario` and signal."""
    signals = tuple(signals)

    def told(run: dict[str, dict[str, list[float]]], scenario: str) -> list[float]:
        of_signal = run[f"{domain}/{scenario}"]
        return sorted(day for signal in signals for day in of_signal[signal])

    still = [told(run, "none") for run in runs]
    before = [sum(day <= DRIFT_DAY for day in days) for days in still]
    return Score(
        before=statistics.mean(before) / DRIFT_DAY,
        week=statistics.mean(len(days) for days in still) / DAYS * 7,
        delays={s: [_delay(told(run, s)) for run in runs] for s in DRIFTS},
    )


def _delay(days: list[float]) -> float:
    after = [day - DRIFT_DAY for day in days if day > DRIFT_DAY]
    return min([*after, float(HORIZON)])


def subsets() -> list[tuple[Signal, ...]]:
    return [s for n in range(1, len(SIGNALS) + 1) for s in itertools.combinations(SIGNALS, n)]


def chosen(detector: str, seeds: Sequence[Alarms]) -> tuple[str, tuple[Signal, ...]] | None:
    """Setting and signals that tell soonest with few enough false alarms in either domain."""
    best: tuple[float, str, tuple[Signal, ...]] | None = None
    for name, signals in itertools.product(grid(), subsets()):
        if name.startswith(detector):
            of = [score(d, [seed[name] for seed in seeds], signals) for d in DOMAINS]
            if max(s.week for s in of) <= ALLOWED_A_WEEK / 2:
                found = (statistics.mean(s.delay for s in of), name, signals)
                best = found if best is None else min(best, found)
    return None if best is None else best[1:]


def cried(days: Sequence[float], seeds: int) -> list[dict[str, dict[str, list[float]]]]:
    """Runs of a detector that alarms on these days, whatever happens."""
    return [{f"{d}/{s}": {SIGNALS[0]: list(days)} for d in DOMAINS for s in SCENARIOS}] * seeds


def rows(tuning: Sequence[Alarms], seeds: Sequence[Alarms]) -> Iterable[tuple[str, str, Score]]:
    """What, domain and score: both baselines, then every detector as it was chosen."""
    per_day = DAY_HOURS // DriftConfig().step_hours
    every = [(step + 1) / per_day for step in range(DAYS * per_day)]
    for name, days in (("always", every), ("never", [])):
        for domain in DOMAINS:
            yield name, domain, score(domain, cried(days, len(seeds)), SIGNALS[:1])
    for detector in DETECTORS:
        found = chosen(detector, tuning)
        if found is not None:
            name, signals = found
            for domain in DOMAINS:
                of = score(domain, [seed[name] for seed in seeds], signals)
                yield f"{name} on {', '.join(signals)}", domain, of


def text(of: Score) -> str:
    return (
        f"{of.before:.3f} false a day before, {of.week:.2f} a week on none; "
        f"{'; '.join(f'{name} {_days(of, name)}' for name in of.delays)}; mean {of.delay:.1f} d"
    )


def _days(of: Score, scenario: str) -> str:
    missed, delays = of.missed(scenario), of.delays[scenario]
    if missed == len(delays):
        return "missed"
    return f"{statistics.median(delays):.2g} d" + (f" ({missed} missed)" if missed else "")


def trade_offs(
    tuning: Sequence[Alarms], seeds: Sequence[Alarms]
) -> dict[str, list[tuple[float, float]]]:
    """By detector, its settings with the signals chosen for it: false alarms a week, delay."""
    found = {}
    for detector in DETECTORS:
        best = chosen(detector, tuning)
        signals = SIGNALS if best is None else best[1]
        points = []
        for name in grid():
            if name.startswith(detector):
                of = [score(d, [seed[name] for seed in seeds], signals) for d in DOMAINS]
                points.append(
                    (statistics.mean(s.week for s in of), statistics.mean(s.delay for s in of))
                )
        found[detector] = sorted(points)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tuning", default="101,102", help="seeds, separated by commas")
    parser.add_argument("--seeds", default="1,2,3", help="seeds, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("run/drift"))
    parser.add_argument("--picture", type=Path, default=Path("docs/drift.svg"))
    options = parser.parse_args()
    tuning, seeds = (
        [alarms_of(int(seed), options.out) for seed in given.split(",")]
        for given in (options.tuning, options.seeds)
    )
    publish(
        "drift_score", {f"{what}, {domain}": text(of) for what, domain, of in rows(tuning, seeds)}
    )
    axes = "false alarms a week", "mean days to an alarm"
    options.picture.write_text(trade_off(trade_offs(tuning, seeds), *axes))
    print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
