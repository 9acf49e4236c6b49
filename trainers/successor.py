"""A-CTR's successor: it begins as CPM's whole model, and learns beside the one that predicts.

Before each live batch it learns a few that are read back from the log: first those of the last
window, then what has come since. When it has learnt all that the other one has, it takes its
place, between two batches. Which two is decided by the log alone: after a crash it begins
anew from the hand-down, and learns at once what it would have learnt by then.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from streaming.impressions import Batch
from trainers.features import ModelBatch
from trainers.hand_down import HandDown
from trainers.last_window import Before
from trainers.learner import Learner
from trainers.transfer import become, reinitialize

_FILE = "successor.json"

ReadBack = Callable[[Sequence[Before]], Generator[Batch, None, None]]
"""The batches that began there, all of which were predicted; fewer where the log has lost some."""


@dataclass(frozen=True)
class Preparation:
    """What a checkpoint must say of a successor."""

    hand_down: HandDown
    window: int  # how many of `batches` are of the last window
    batches: tuple[Before, ...]  # what it has to learn, live batches since the boundary last

    def due(self, each: int) -> int:
        """How many it has learnt before the next live batch, ``each`` before every one."""
        since = len(self.batches) - self.window
        return min(each * (since + 1), len(self.batches))


class Successor:
    """A second model on one rank, while it is needed.

    Args:
        learner: the one that predicts.
        each: batches to learn before each live one, at least 2.
        keep_batch_norm: take CPM's BatchNorm over, too.
        window: where the batches of the last window began, as of now.
        ready: a batch as the model takes it.
        alive: told while this lasts.
        told: takes a line for the person who watches.
        resumed: what was being prepared, from a checkpoint.
    """

    def __init__(
        self,
        learner: Learner,
        each: int,
        keep_batch_norm: bool,
        window: Callable[[], Sequence[Before]],
        read_back: ReadBack,
        ready: Callable[[Batch], ModelBatch],
        alive: Callable[[], None],
        told: Callable[[str], None],
        resumed: Preparation | None = None,
    ) -> None:
        self._current, self._each, self._keep_batch_norm = learner, each, keep_batch_norm
        self._window, self._read_back, self._ready = window, read_back, ready
        self._alive, self._told = alive, told
        self.preparation = resumed
        self._learner: Learner | None = None
        self._restart()

    def _restart(self) -> None:
        self._at = 0  # batches that were learnt, or are lost
        self._leg: Generator[Batch, None, None] | None = None
        self._leg_end = 0
        self._learnt = {"again": 0, "live": 0}  # impressions

    @property
    def busy(self) -> bool:
        return self.preparation is not None

    @property
    def left(self) -> int:
        """Batches that it has to learn before it may take over, as of now."""
        return len(self.preparation.batches) - self._at if self.preparation else 0

    def begin(self, hand_down: HandDown) -> bool:
        """Prepare from the whole model in ``hand_down``; False: that takes no time."""
        window = tuple(self._window())
        if len(window) <= self._each:
            return False
        self.preparation = Preparation(hand_down, len(window), window)
        return True

    def live(self, batch: Before) -> None:
        """The one that predicts learns ``batch`` next."""
        if self.preparation is not None:
            batches = (*self.preparation.batches, batch)
            self.preparation = replace(self.preparation, batches=batches)

    def advance(self) -> int:
        """Learn what is due before the next live batch, and take over when that is all.

        Returns:
            the hand-down's boundary, ms, when nothing is being prepared any more, else 0.

        Raises:
            UserError: features or shapes differ; they are named.
        """
        assert self.preparation is not None
        started = time.perf_counter()
        if self._learner is None:
            self._learner = self._begun(self.preparation)
        if self._learner is not None:
            if not self._learn(self._learner, self.preparation):
                then = self.preparation.hand_down.then
                self._told(f"the successor from CPM's hand-down of {then} diverged: left out")
                return self._done(self.preparation.hand_down)
            if self.left:
                return 0
            become(self._current, self._learner)
            self._tell(self.preparation.hand_down, time.perf_counter() - started)
        return self._done(self.preparation.hand_down)

    def close(self) -> None:
        """The process ends."""
        if self._leg is not None:
            self._leg.close()
        if self.preparation is not None:
            self._told(
                "ended before the successor from CPM's hand-down of "
                f"{self.preparation.hand_down.then} took over: the next start prepares it again"
            )

    def _begun(self, of: Preparation) -> Learner | None:
        """CPM's model, which knows no ads yet; None: its files cannot be read."""
        hand_down, since = of.hand_down, len(of.batches) - of.window
        if (problem := hand_down.problem()) is not None:
            self._told(f"CPM's hand-down of {hand_down.then} cannot be read ({problem}): left out")
            return None
        self._told(
            f"preparing a successor from CPM's hand-down of {hand_down.then}: it learns "
            f"{of.window:,} batches of the last window again"
            + (f" and the {since:,} that were learnt since" if since else "")
        )
        learner = Learner(self._current.config, self._current.schema)
        reinitialize(learner, Path(hand_down.location), keep_batch_norm=self._keep_batch_norm)
        return learner

    def _learn(self, learner: Learner, of: Preparation) -> bool:
        """False: it diverged."""
        while self._at < of.due(self._each):
            self._alive()
            batch = self._next(of)
            if batch is None:
                self._at = self._leg_end
                continue
            if not math.isfinite(learner.step(self._ready(batch))[1]):
                return False
            self._learnt["again" if self._at < of.window else "live"] += len(batch)
            self._at += 1
        return True

    def _next(self, of: Preparation) -> Batch | None:
        """The next batch from the log; None: the rest of what was known when reading last
        began is lost, and was said to be."""
        if self._leg is None or self._at == self._leg_end:
            if self._leg is not None:
                self._leg.close()
            self._leg = self._read_back(of.batches[self._at :])
            self._leg_end = len(of.batches)
        return next(self._leg, None)

    def _tell(self, hand_down: HandDown, seconds: float) -> None:
        self._told(
            f"CPM's hand-down of {hand_down.then}: the whole model"
            + (", BatchNorm kept" if self._keep_batch_norm else "")
            + f", {self._learnt['again']:,} ads of the last window again, {self._learnt['live']:,} "
            f"since: its successor took over in {seconds:.2f} s"
        )

    def _done(self, hand_down: HandDown) -> int:
        if self._leg is not None:
            self._leg.close()
        self.preparation = self._learner = None
        gc.collect()  # a model is full of cycles
        self._restart()
        return hand_down.boundary


def write_preparation(preparation: Preparation, directory: Path) -> None:
    """Into a checkpoint's ``directory``."""
    plain = {
        "hand_down": preparation.hand_down.encode().decode(),
        "window": preparation.window,
        "batches": [batch.plain() for batch in preparation.batches],
    }
    (directory / _FILE).write_text(json.dumps(plain))


def read_preparation(directory: Path) -> Preparation | None:
    """What :func:`write_preparation` wrote, if it did."""
    try:
        found = json.loads((directory / _FILE).read_text())
    except FileNotFoundError:
        return None
    return Preparation(
        HandDown.decode(found["hand_down"].encode()),
        found["window"],
        tuple(Before.of(plain) for plain in found["batches"]),
    )
