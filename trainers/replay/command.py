"""`ecdctr replay`: all levels over a recorded log, and what each of them is worth."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from config import Config, configured
from errors import UserError
from settings import Loaded
from streaming.market import DAY_MS
from streaming.truth import truth_dir
from trainers.replay.figures import Figures, figures
from trainers.replay.log import RecordedLog, true_probabilities
from trainers.replay.plan import VARIANTS, Variant, chosen
from trainers.replay.report import write_report
from trainers.replay.results import Outcome, require_same_ads
from trainers.replay.tables import pair_rows, rows, terminal, text_of

_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])


@click.command("replay")
@configured
@click.argument(
    "log", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--from-kafka", is_flag=True, help="Replay what the topics hold, instead of LOG.")
@click.option("--since", type=_TIME, help="With --from-kafka: event time to begin at, UTC.")
@click.option("--until", type=_TIME, help="With --from-kafka: event time to end before, UTC.")
@click.option(
    "--variants",
    default=",".join(name for name in VARIANTS if not name.startswith("full-")),
    show_default=True,
    metavar="NAME,...",
    help="What to compare.",
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Run each variant with each value of a setting; several give every combination.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Levels and variants that run at a time, each a process.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for predictions and the report; default: RUN_DIR/replay.",
)
def command(
    loaded: Loaded[Config],
    log: Path | None,
    from_kafka: bool,
    since: datetime | None,
    until: datetime | None,
    variants: str,
    sweep: tuple[str, ...],
    jobs: int,
    out: Path | None,
) -> None:
    """Run LOG, a folder of Parquet files, through all levels, variant by variant.

    LOG is what `ecdctr simulate --out` or `ecdctr import --out` wrote; --from-kafka takes
    what the live topics hold, in the order in which live trainers read it. Every variant
    predicts the same ad impressions, each before learning it. What an earlier run finished
    in --out is not done again.
    """
    if (log is None) != from_kafka or (not from_kafka and (since or until)):
        raise UserError("replay what? Either LOG, or --from-kafka with --since and --until")
    names = [name.strip() for name in variants.split(",") if name.strip()]
    if not names:
        raise UserError(f"--variants: which? There are {', '.join(VARIANTS)}")
    plan = chosen(names, sweep)
    for variant in plan:
        variant.applied(loaded.config)  # all refusals before any work
    config = loaded.config
    folder = out or config.run_dir / "replay"
    if log is None:
        recorded = _from_kafka(config, since, until, folder)
    else:
        recorded = RecordedLog(log, config.impressions)
    # TorchRec takes seconds to import: only now, when all else was found in order.
    from trainers.replay.parallel import run_pieces
    from trainers.replay.run import Replay

    with Bars() as bars:
        replay = Replay(recorded, config, folder, bars)
        if jobs > 1:
            run_pieces(replay, plan, jobs, bars)
        outcomes = {variant.name: replay.outcome(variant) for variant in plan}
    found = judge(outcomes, recorded, config)
    path = write_report(found, _about(recorded), _explained(plan), folder)
    _print(found, path)


def _from_kafka(
    config: Config, since: datetime | None, until: datetime | None, folder: Path
) -> RecordedLog:
    from trainers.replay.recording import Range, record

    given = {"since": since, "until": until}
    wanted = Range(**{name: _ms(time) for name, time in given.items() if time is not None})
    if wanted.since >= wanted.until:
        raise UserError("--since must lie before --until")
    path = record(config, wanted, folder / "logs", lambda line: click.echo(line, err=True))
    return RecordedLog(path, config.impressions, truth_dir(config.run_dir))


def _ms(time: datetime) -> int:
    return round(time.replace(tzinfo=UTC).timestamp() * 1_000)


def judge(outcomes: dict[str, Outcome], log: RecordedLog, config: Config) -> Figures:
    """The figures of variants that all ran over ``log``.

    Raises:
        UserError: they did not predict the same impressions.
    """
    require_same_ads(outcomes)
    ads = next(iter(outcomes.values())).predictions
    truth_N = true_probabilities(log, ads.impression_id)
    return figures(outcomes, truth_N, config.replay, log.start, log.end)


def _about(log: RecordedLog) -> dict[str, Any]:
    counts = {f"{name} impressions": f"{span.rows:,}" for name, span in log.spans.items()}
    return {"log": str(log.path), "days": f"{(log.end - log.start) / DAY_MS:.1f}", **counts}


def _explained(plan: tuple[Variant, ...]) -> dict[str, str]:
    return {
        variant.name: "; ".join([variant.about, *(f"{k}={v}" for k, v in variant.settings)])
        for variant in plan
    }


def _print(found: Figures, path: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    ceiling = text_of("gauc", found.ceiling)
    title = f"{found.impressions:,} ad impressions after the warm-up, ceiling {ceiling}"
    console.print(terminal(title, rows(found)))
    if found.pairs:
        console.print(terminal("Differences of GAUC, 95 % intervals", pair_rows(found)))
    console.print(f"report: {path}", highlight=False, soft_wrap=True)


class Bars:
    """A bar for what is under way on a terminal, a line for what is done anywhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
            transient=True,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def began(self, what: str, impressions: int) -> Callable[[int], None]:
        task = self._progress.add_task(what, total=impressions)
        return lambda count: self._progress.advance(task, count)

    def ended(self, what: str, known: bool) -> None:
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._console.print(f"{what}: {'known already' if known else 'done'}", highlight=False)
