"""Alarms, scored: how often each detector cries wolf, and how late it tells of a real drift.

    python -m benchmarks.drift_score [--tuning 101,102,103] [--seeds 1,2,3,4,5]

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

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
from monitoring.drift.signals import SIGNALS, Sums, values_of
from monitoring.drift.watch import DOMAINS, SignalWatch
from streaming.market_drift import Scenario
from trainers.replay.svg import trade_off

ALLOWED_A_WEEK = 1.0
"""False alarms of a domain, all signals together; half of that where settings are chosen."""
HORIZON = 10
"""A drift that is not told within this many days is missed, and counts as so many."""
CHANCE_DAYS = 1.0
"""An alarm this near to one of the same signal on the market without drift is a false one."""
DRIFTS = [name for name in SCENARIOS if name != "none"]

Run = dict[str, dict[str, list[float]]]
"""Alarms of one seed by `domain/scenario` and signal: days since the market's beginning."""
Alarms = dict[str, Run]
"""By setting."""


def grid() -> dict[str, DriftConfig]:
    """One detector in one setting each, on every signal."""
    off = DriftConfig(page_hinkley=PageHinkleyConfig(signals=()))
    found = {}
    for delta in (0.2, 0.05, 0.01, 0.002, 0.0001):
        adwin = AdwinConfig(signals=SIGNALS, delta=delta)
        found[f"adwin delta={delta:g}"] = off.model_copy(update={"adwin": adwin})
    for alpha in (0.01, 0.001, 0.0001):
        kswin = KswinConfig(signals=SIGNALS, alpha=alpha)
        found[f"kswin alpha={alpha:g}"] = off.model_copy(update={"kswin": kswin})
    for delta, thresholds in ((0.25, (6, 10, 16)), (0.5, (4, 6, 8, 10, 16)), (1.0, (3, 5, 9))):
        for threshold in thresholds:
            sums = PageHinkleyConfig(signals=SIGNALS, delta=delta, threshold=threshold)
            name = f"page_hinkley delta={delta:g} threshold={threshold}"
            found[name] = off.model_copy(update={"page_hinkley": sums})
    return found


def alarms_of(seed: int, out: Path, settings: Iterable[str] = ()) -> Alarms:
    """Of one seed's markets, by setting (default: the grid), from a file or made anew."""
    path = out / f"{seed}.json"
    found: Alarms = json.loads(path.read_text()) if path.exists() else {}
    for name in settings or grid():
        if name not in found:
            found[name] = _run(recordings_of(seed, out), grid()[name])
            path.write_text(json.dumps(found))
    return found


def _run(recordings: dict[Scenario, dict[Domain, Recording]], config: DriftConfig) -> Run:
    found: Run = {}
    for domain in DOMAINS:
        of_domain = {scenario: recording[domain] for scenario, recording in recordings.items()}
        for scenario, alarms in _watched(of_domain, domain, config).items():
            found[f"{domain}/{scenario}"] = alarms
    return found


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
    sums: dict[int, Sums] = {}
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
    chance: list[float]  # a seed each: days from the day of the drift to a false alarm

    @property
    def delay(self) -> float:
        """Mean days over scenarios and seeds."""
        return statistics.mean(itertools.chain.from_iterable(self.delays.values()))


def score(domain: str, runs: Sequence[Run], signals: Iterable[str], paired: bool = True) -> Score:
    """``paired``: an alarm that the same seed's market without drift gives too tells nothing."""
    signals = tuple(signals)
    still = [_told(run[f"{domain}/none"], signals) for run in runs]
    before = [sum(day <= DRIFT_DAY for day in days) for days in still]
    delays = {
        scenario: [
            _delay(
                _told(run[f"{domain}/{scenario}"], signals, run[f"{domain}/none"] if paired else {})
            )
            for run in runs
        ]
        for scenario in DRIFTS
    }
    return Score(
        before=statistics.mean(before) / DRIFT_DAY,
        week=statistics.mean(len(days) for days in still) / DAYS * 7,
        delays=delays,
        chance=[_delay(days) for days in still],
    )


def _told(
    alarms: dict[str, list[float]],
    signals: Iterable[str],
    false: Mapping[str, list[float]] = MappingProxyType({}),
) -> list[float]:
    """Days of alarms, without those that ``false`` has too."""
    return [
        day
        for signal in signals
        for day in alarms[signal]
        if not any(abs(day - other) < CHANCE_DAYS for other in false.get(signal, ()))
    ]


def _delay(days: list[float]) -> float:
    after = [day - DRIFT_DAY for day in days if day > DRIFT_DAY]
    return min([*after, float(HORIZON)])


def subsets() -> list[tuple[Signal, ...]]:
    return [s for n in range(1, len(SIGNALS) + 1) for s in itertools.combinations(SIGNALS, n)]


def chosen(detector: str, seeds: Sequence[Alarms]) -> tuple[str, tuple[Signal, ...]] | None:
    """Setting and fewest signals that tell soonest with few enough false alarms in each domain."""
    best: tuple[float, int, str, tuple[Signal, ...]] | None = None
    for name, signals in itertools.product(grid(), subsets()):
        if name.startswith(detector):
            of = [score(d, [seed[name] for seed in seeds], signals) for d in DOMAINS]
            if max(s.week for s in of) <= ALLOWED_A_WEEK / 2:
                found = (statistics.mean(s.delay for s in of), len(signals), name, signals)
                best = found if best is None else min(best, found)
    return None if best is None else best[2:]


def cried(days: Sequence[float], seeds: int) -> list[Run]:
    """Runs of a detector that alarms on these days, whatever happens."""
    return [{f"{d}/{s}": {SIGNALS[0]: list(days)} for d in DOMAINS for s in SCENARIOS}] * seeds


def rows(tuning: Sequence[Alarms], seeds: Sequence[Alarms]) -> Iterable[tuple[str, str, Score]]:
    """What, domain and score: both baselines, then every detector as it was chosen."""
    per_day = DAY_HOURS // DriftConfig().step_hours
    every = [(step + 1) / per_day for step in range(DAYS * per_day)]
    for name, days in (("always", every), ("never", [])):
        for domain in DOMAINS:
            yield name, domain, score(domain, cried(days, len(seeds)), SIGNALS[:1], paired=False)
    for detector in DETECTORS:
        found = chosen(detector, tuning)
        if found is not None:
            name, signals = found
            for domain in DOMAINS:
                of = score(domain, [seed[name] for seed in seeds], signals)
                yield f"{name} on {', '.join(signals)}", domain, of


def table(scored: Iterable[tuple[str, str, Score]]) -> str:
    """Markdown, a line for each detector and domain."""
    head = ["detector", "domain", "false a day before", "false a week on `none`", "chance"]
    head += [*DRIFTS, "mean"]
    lines = [head, ["---"] * len(head)]
    for what, domain, of in scored:
        delays = [_days(of.delays[name]) for name in DRIFTS]
        false = [f"{of.before:.3f}", f"{of.week:.2f}", _days(of.chance)]
        lines.append([what, domain, *false, *delays, f"{of.delay:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _days(delays: list[float]) -> str:
    """Median, and how many were missed."""
    missed = sum(days >= HORIZON for days in delays)
    if missed == len(delays):
        return "missed"
    return f"{statistics.median(delays):.2g}" + (f" ({missed} missed)" if missed else "")


def features(seeds: Sequence[dict[Scenario, dict[Domain, Recording]]]) -> str:
    """Markdown: PSI of every feature, greatest of any day without drift and on the first with.

    Days whose reference is not whole yet are left out.
    """
    shown, full = ("broken-feature", "bot-flood", "label-outage"), DriftConfig().reference_days
    head = ["feature", "domain", "greatest on `none`", *(f"{name}, first day" for name in shown)]
    lines = [head, ["---"] * len(head)]
    for domain in DOMAINS:
        still = [psi for seed in seeds for psi in list(_psi(seed, "none", domain))[full:]]
        for name in still[0]:
            first = (
                statistics.median(
                    list(_psi(seed, scenario, domain))[DRIFT_DAY][name] for seed in seeds
                )
                for scenario in shown
            )
            values = (max(psi[name] for psi in still), *first)
            lines.append([name, domain, *(f"{value:.2f}" for value in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _psi(
    seed: dict[Scenario, dict[Domain, Recording]], scenario: Scenario, domain: Domain
) -> Iterable[dict[str, float]]:
    """Day by day."""
    return (psi for _, psi in sorted(seed[scenario][domain].psi.items()))


def trade_offs(
    tuning: Sequence[Alarms], seeds: Sequence[Alarms]
) -> dict[str, list[tuple[float, float]]]:
    """By detector, every setting with the signals chosen for it: false alarms a week, delay.

    What was chosen of all comes last, alone.
    """
    found = {}
    for detector in DETECTORS:
        best = chosen(detector, tuning)
        signals = SIGNALS if best is None else best[1]
        names = [name for name in grid() if name.startswith(detector)]
        found[detector] = [_costs(name, signals, seeds) for name in names]
    best = chosen("", tuning)
    return found if best is None else {**found, "chosen": [_costs(*best, seeds)]}


def _costs(name: str, signals: Iterable[str], seeds: Sequence[Alarms]) -> tuple[float, float]:
    of = [score(domain, [seed[name] for seed in seeds], tuple(signals)) for domain in DOMAINS]
    return statistics.mean(s.week for s in of), statistics.mean(s.delay for s in of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tuning", default="101,102,103", help="seeds, separated by commas")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="seeds, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("run/drift"))
    parser.add_argument("--picture", type=Path, default=Path("docs/drift.svg"))
    options = parser.parse_args()
    tuning, seeds = (
        [alarms_of(int(seed), options.out) for seed in given.split(",")]
        for given in (options.tuning, options.seeds)
    )
    scored = list(rows(tuning, seeds))
    publish("drift_score", {f"{what}, {domain}": asdict(of) for what, domain, of in scored})
    print(f"\n{table(scored)}")
    kept = [recordings_of(int(seed), options.out) for seed in options.seeds.split(",")]
    print(f"\n{features(kept)}")
    axes = "false alarms a week", "mean days to an alarm"
    options.picture.write_text(trade_off(trade_offs(tuning, seeds), *axes))
    print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
