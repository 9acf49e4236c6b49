"""A-CTR's side of hand-downs: which are there, and which is taken over before which batch.

A hand-down of boundary b is taken over before the first batch whose impressions all have
event times from b on, late ones aside: what CPM learnt before b helps from b on, at the
same batch in every run that waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from streaming.impressions import EVENT_TIME, Batch
from trainers.cadence import Cadence
from trainers.checkpoint import Progress
from trainers.hand_down import CLOSED, HANDED, HandDown, moment
from trainers.learner import Learner
from trainers.ranks import Ranks
from trainers.transfer import apply_delta, read_delta, reinitialize
from trainers.transfer_settings import ActrConfig


class Announced:
    """The hand-downs that were announced; may be used from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._found: dict[int, HandDown] = {}
        self._newest = 0

    def put(self, hand_down: HandDown) -> None:
        with self._changed:
            self._found[hand_down.boundary] = hand_down
            self._newest = max(self._newest, hand_down.boundary)
            self._changed.notify_all()

    def drop(self, boundary: int) -> None:
        """Its files are gone."""
        with self._changed:
            self._found.pop(boundary, None)

    def between(self, after: int, until: int) -> list[HandDown]:
        """With ``after`` < boundary <= ``until``, in order."""
        with self._changed:
            return [self._found[b] for b in sorted(self._found) if after < b <= until]

    def wait_for(self, boundary: int, timeout: float) -> bool:
        """Until ``boundary`` or a later one was announced; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._newest >= boundary, timeout)


class Beside(Protocol):
    """Prepares a whole model while another one predicts; `trainers.successor.Successor` is
    such."""

    @property
    def busy(self) -> bool: ...

    def begin(self, hand_down: HandDown) -> bool:
        """False: there is nothing to prepare, it may be taken over at once."""
        ...

    def advance(self) -> int:
        """Called before each batch; the hand-down's boundary, ms, when done with it, else 0."""
        ...


class TakeOver:
    """The loop's `Boundary` of A-CTR.

    While a successor is prepared it acts before every batch, marks nothing, and lets newer
    hand-downs wait: a stream of them cannot keep A-CTR from ever taking one over.

    Args:
        told: takes a line for the person who watches, on rank 0.
        cadence_ms: event time between two of CPM's hand-downs, for :meth:`there`.
        progress: A-CTR's, from its checkpoint.
        relearn: learns the last window again after a whole model; how many impressions.
        beside: prepares whole models instead, where that needs time.
    """

    def __init__(
        self,
        learner: Learner,
        config: ActrConfig,
        announced: Announced,
        cadence_ms: int,
        ranks: Ranks,
        told: Callable[[str], None],
        progress: Progress,
        relearn: Callable[[], int] = lambda: 0,
        beside: Beside | None = None,
    ) -> None:
        self._learner, self._config, self._announced = learner, config, announced
        self._relearn, self._beside = relearn, beside
        self._cadence, self._ranks, self._told = Cadence(cadence_ms), ranks, told
        self._taken = progress.marks.get(CLOSED, 0)
        self._added = progress.marks.get(HANDED, 0)  # boundary of the last one that was taken
        self._read = self._gated = progress.watermark
        self._from = 0  # the batch at hand's least event time that is not late, ms
        self._waited_for = 0

    def there(self, batch: Batch, timeout: float) -> bool:
        """Whether CPM has got as far as ``batch`` needs; waits up to ``timeout`` seconds."""
        needed = self._cadence.begin(_begin(batch, self._gated))
        if needed > self._taken and not self._announced.wait_for(needed, timeout):
            if self._waited_for != needed:
                self._waited_for = needed
                self._told(f"waiting for CPM's hand-down of {moment(needed)}")
            return False
        self._gated = max(self._gated, batch.watermark)
        return True

    def due(self, batch: Batch) -> bool:
        self._from = _begin(batch, self._read)
        self._read = max(self._read, batch.watermark)
        return self._preparing() or bool(self._announced.between(self._taken, self._from))

    def act(self, batch: Batch | None) -> dict[str, int]:
        starts = self._ranks.exchange(None if batch is None else self._from)
        begin = min((start for start in starts if start is not None), default=0)
        self._advance()
        if not self._preparing():
            self._take_due(begin)
        return {CLOSED: self._taken, HANDED: self._added}

    def _preparing(self) -> bool:
        return self._beside is not None and self._beside.busy

    def _advance(self) -> None:
        if self._beside is not None and self._beside.busy and (done := self._beside.advance()):
            self._taken = self._added = done

    def _take_due(self, begin: int) -> None:
        """What was handed down for boundaries up to ``begin``, ms."""
        waiting = self._ranks.exchange(self._announced.between(self._taken, begin))[0]
        wanted = "full" if self._config.transfer == "reinitialize" else "delta"
        usable = [h for h in waiting if h.kind == wanted]
        for other in sorted({h.kind for h in waiting} - {wanted, "begin"}):
            self._told(f"CPM hands down '{other}', not what actr.transfer asks for: left out")
        if self._beside is not None and usable and self._beside.begin(usable[-1]):
            self._advance()
            return
        for hand_down in usable[-1:] if wanted == "full" else usable:
            if self._counts(hand_down):
                self._take(hand_down)
            self._added = hand_down.boundary
        if waiting:
            self._taken = waiting[-1].boundary

    def _counts(self, hand_down: HandDown) -> bool:
        """Whether its changes begin where those before ended, or later: none counts twice."""
        if hand_down.kind == "full" or hand_down.since == self._added:
            return True
        then, since = hand_down.then, moment(hand_down.since)
        if hand_down.since < self._added:
            self._told(
                f"CPM's hand-down of {then} holds changes from before {moment(self._added)}, "
                "which are here already: left out"
            )
            return False
        self._told(f"CPM's hand-downs up to {since} are gone: going on with that of {then}")
        return True

    def _take(self, hand_down: HandDown) -> None:
        started = time.perf_counter()
        place, then = Path(hand_down.location), hand_down.then
        problems = [p for p in self._ranks.exchange(hand_down.problem()) if p is not None]
        if problems:
            self._told(f"CPM's hand-down of {then} cannot be read ({problems[0]}): left out")
            return
        what = self._add(place) if hand_down.kind == "delta" else self._replace(place)
        self._told(f"CPM's hand-down of {then}: {what} in {time.perf_counter() - started:.2f} s")

    def _add(self, place: Path) -> str:
        delta = read_delta(place)
        applied = apply_delta(self._learner, delta, self._config.transfer_scale)
        words = f"changes of {delta.rows:,} rows, {applied.admitted:,} of new ids"
        if applied.waiting:
            words += f", {applied.waiting:,} wait for a row"
        if applied.dropped:
            words += f", {applied.dropped:,} dropped (actr.transfer_waiting)"
        return words

    def _replace(self, place: Path) -> str:
        keep = not self._config.transfer_resets_batch_norm
        reinitialize(self._learner, place, keep_batch_norm=keep)
        words = "the whole model" + (", BatchNorm kept" if keep else "")
        learnt = self._relearn()
        return words + (f", {learnt:,} ads of the last window again" if learnt else "")


def _begin(batch: Batch, watermark: int) -> int:
    """The least event time in ``batch`` that is not late, ms; 0 when all are."""
    time_B = batch.rows.column(EVENT_TIME).to_numpy()
    punctual_B = time_B[time_B >= watermark]
    return int(punctual_B.min()) if len(punctual_B) else 0
