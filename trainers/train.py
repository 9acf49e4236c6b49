"""`ecdctr train`: one level as a process."""

from __future__ import annotations

import sys

import click

from config import Config, configured
from settings import Loaded
from shutdown import end_at_once
from trainers.levels import NAMES


@click.command("train")
@click.argument("level", type=click.Choice(NAMES))
@click.option(
    "--until-end", is_flag=True, help="Stop, with a checkpoint, where the log ends as of now."
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Same as --set LEVEL.device=..."
)
@click.option(
    "--align",
    is_flag=True,
    help="Predict nothing before what other levels owe it is there. Same as "
    "--set LEVEL.align=true.",
)
@configured
def command(
    loaded: Loaded[Config], level: str, until_end: bool, device: str | None, align: bool
) -> None:
    """Train LEVEL on impressions as they arrive, going on from its last checkpoint.

    Ctrl-C or SIGTERM leaves a checkpoint and ends with status 0. Several ranks:
    torchrun --nproc-per-node 2 -m cli train actr.
    """
    end_at_once()
    from streaming.reader_process import ReaderProcess

    # Before there are threads, and without TorchRec's memory. macOS' own libraries bear no fork.
    reading = ReaderProcess.fork() if sys.platform == "linux" else None
    # TorchRec takes seconds to import: only now, when all else was found in order.
    from trainers.process import train

    config = loaded.config
    flags: dict[str, object] = {} if device is None else {"device": device}
    if align:
        flags["align"] = True
    if flags:
        settings = getattr(config, level).model_copy(update=flags)
        config = config.model_copy(update={level: settings})
    train(config, level, until_end=until_end, reading=reading)
