"""Several pieces of a replay at a time, each in a process of its own.

Pieces meet on disk only: first every TPM that some variant needs, then every CPM, then
the variants. So none is run twice, and an interruption costs what was under way.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from config import Config
from errors import UserError
from shutdown import end_with_parent
from trainers.replay.level_run import Advance
from trainers.replay.log import RecordedLog
from trainers.replay.plan import Variant, levels
from trainers.replay.run import Replay, Show

LEVELS = ("tpm", "cpm", "actr")


def run_pieces(replay: Replay, plan: Sequence[Variant], jobs: int, show: Show) -> None:
    """Leave everything that ``plan`` needs on disk.

    Raises:
        UserError: a piece failed, or its process was killed.
    """
    where = (replay.log.path, replay.config, replay.out)
    # PyTorch's threads do not survive a fork; a server that has only imported it has none yet,
    # and what is forked from it has neither the import's ten seconds nor its memory to itself.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(jobs, mp_context=server, initializer=end_with_parent) as pool:
        for level in LEVELS:
            pieces = _pieces(replay, plan, level)
            done = show.began(f"{level}: {len(pieces)} at {jobs} a time", len(pieces))
            under_way = {
                pool.submit(_piece, *where, variant, level): variant.name for variant in pieces
            }
            _await(pool, under_way, done)


def _pieces(replay: Replay, plan: Sequence[Variant], level: str) -> list[Variant]:
    """One variant for each piece of ``level`` that is still to be run."""
    needing = [v for v in plan if level in levels(v.applied(replay.config))]
    wanted = {replay.folder(variant, level): variant for variant in reversed(needing)}
    return [variant for folder, variant in reversed(wanted.items()) if not folder.exists()]


def _await(
    pool: ProcessPoolExecutor, under_way: dict[Future[None], str], done: Callable[[int], None]
) -> None:
    for future in as_completed(under_way):
        try:
            future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a process of the replay was killed, for want of memory perhaps: take fewer "
                    "--jobs; what is done is kept"
                ) from None
            raise
        done(1)


def _piece(log: Path, config: Config, out: Path, variant: Variant, level: str) -> None:
    replay = Replay(RecordedLog(log, config.impressions), config, out, _Unseen())
    replay.run_piece(variant, level)


class _Unseen:
    """Nobody looks on."""

    def began(self, what: str, impressions: int) -> Advance:
        return lambda count: None

    def ended(self, what: str, known: bool) -> None:
        pass
