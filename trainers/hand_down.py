"""CPM's versions: at a boundary of event time what it learnt before goes to A-CTR.

    <directory>/
        1700006400000/          a hand-down, named after its boundary, ms
            manifest.json       every file's checksum, and how far CPM had come
            ...                 see `trainers.transfer`
        .writing-…              one that was never finished; removed at the next start

The files come first, by one rename, then the announcement. A crash before CPM's next
checkpoint repeats both, with the same bytes.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from streaming.impressions import Batch
from trainers.checkpoint import WRITING, DamagedCheckpoint, Progress, rename, seal, verify
from trainers.delta import DeltaTracker
from trainers.learner import Learner
from trainers.ranks import Ranks
from trainers.schedule import Schedule
from trainers.transfer import export_delta, export_full, start_over

log = logging.getLogger(__name__)

Kind = Literal["begin", "delta", "full"]

CLOSED = "hand_down"
"""In a level's marks: the newest boundary that is behind it, ms."""
HANDED = "handed_down"
"""In CPM's marks: boundary of the newest hand-down, ms; 0: there was none."""


@dataclass(frozen=True)
class HandDown:
    """What is announced; `begin` says that CPM's log starts here and carries nothing."""

    boundary: int  # ms: it holds nothing from then on
    kind: Kind
    since: int = 0  # ms: boundary of the hand-down before; 0: there is none
    location: str = ""  # its directory
    version: int = 0  # batches that CPM had learnt
    watermark: int = 0  # greatest event time learnt, ms
    size: int = 0  # bytes of its files

    @property
    def then(self) -> str:
        """Its boundary in words."""
        return moment(self.boundary)

    def problem(self) -> str | None:
        """What is wrong with its files, if anything."""
        try:
            verify(Path(self.location))
        except DamagedCheckpoint as error:
            return str(error)
        return None

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(value: bytes) -> HandDown:
        """Raises ValueError for what is no hand-down."""
        try:
            fields = json.loads(value)
            found = HandDown(**{name: fields[name] for name in HandDown.__annotations__})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a hand-down: {error}") from None
        numbers = (found.boundary, found.since, found.version, found.watermark, found.size)
        if found.kind not in get_args(Kind) or not all(isinstance(n, int) for n in numbers):
            raise ValueError(f"not a hand-down: {fields}")
        return found


def moment(ms: int) -> str:
    """An event time in words, to the minute."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


class HandDownStore:
    """The hand-downs on disk, ``keep`` of them.

    ``durable``: each is on the disk, for good, before it is announced.
    """

    def __init__(self, directory: Path, keep: int, *, durable: bool = True) -> None:
        self.directory, self.keep, self.durable = directory, keep, durable

    def prepare(self) -> None:
        """Create the directory and remove what an interrupted write left behind."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(f"{WRITING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def writing(self, boundary: int) -> Path:
        return self.directory / f"{WRITING}{boundary}"

    def begin(self, boundary: int) -> None:
        """An empty directory to write into."""
        shutil.rmtree(self.writing(boundary), ignore_errors=True)
        self.writing(boundary).mkdir(parents=True)

    def commit(self, boundary: int, progress: Progress) -> Path:
        """Seal what was written and give it its name.

        Raises:
            OSError: something could not be written.
        """
        writing, final = self.writing(boundary), self.directory / str(boundary)
        seal(writing, progress, durable=self.durable)
        if _same(writing, final):  # A-CTR may be reading it
            shutil.rmtree(writing)
            return final
        if final.exists():
            shutil.rmtree(final)
        rename(writing, final, durable=self.durable)
        return final

    def discard(self, boundary: int) -> None:
        shutil.rmtree(self.writing(boundary), ignore_errors=True)

    def boundaries(self) -> list[int]:
        """Of all hand-downs, oldest first, ms."""
        return sorted(int(path.name) for path in self.directory.glob("[0-9]*"))

    def prune(self) -> list[int]:
        """Remove the oldest beyond ``keep``; their boundaries."""
        gone = self.boundaries()[: -self.keep]
        for boundary in gone:
            shutil.rmtree(self.directory / str(boundary), ignore_errors=True)
        return gone


def _same(one: Path, other: Path) -> bool:
    """Whether two sealed directories are whole and hold the same."""
    try:
        verify(other)
        return (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()
    except (DamagedCheckpoint, OSError):
        return False


class HandDowns:
    """The loop's `Boundary` of CPM.

    Args:
        tracker: what changed since the last hand-down; None: whole models are handed down.
        announce: told on rank 0 of every hand-down, when its files are in place.
        forget: told on rank 0 of the boundary of every hand-down that was removed.
        afresh: learn every window from a fresh model.
        marks: CPM's, from its checkpoint.
    """

    def __init__(
        self,
        learner: Learner,
        tracker: DeltaTracker | None,
        store: HandDownStore,
        schedule: Schedule,
        ranks: Ranks,
        announce: Callable[[HandDown], None],
        forget: Callable[[int], None],
        *,
        afresh: bool,
        progress: Progress,
    ) -> None:
        self._learner, self.tracker, self._store = learner, tracker, store
        self._schedule, self._ranks, self._afresh = schedule, ranks, afresh
        self._announce, self._forget = announce, forget
        self._closed = progress.marks.get(CLOSED, 0)
        self._handed = progress.marks.get(HANDED, 0)
        self._learnt = self._read = progress.watermark  # before the batch at hand, and with it

    def due(self, batch: Batch) -> bool:
        self._learnt, self._read = self._read, max(self._read, batch.watermark)
        return not self._closed or self._schedule.due(self._closed, batch.watermark)

    def act(self, batch: Batch | None) -> dict[str, int]:
        watermark = max(self._ranks.exchange(0 if batch is None else batch.watermark))
        if not self._closed:
            self._begin(self._schedule.begin(watermark))
        # What was crossed in one go holds the same: only the last is handed down.
        for boundary in self._schedule.crossed(self._closed, watermark)[-1:]:
            self._hand_down(boundary)
            self._closed = boundary
            if self._afresh:
                start_over(self._learner)
        return {CLOSED: self._closed, HANDED: self._handed} | self._schedule.marks()

    def _begin(self, boundary: int) -> None:
        self._closed = boundary
        if self._ranks.rank == 0:
            self._announce(HandDown(boundary, "begin"))

    def _hand_down(self, boundary: int) -> None:
        """A failure leaves the change to the next one."""
        learnt = max(self._ranks.exchange(self._learnt))
        progress = Progress(step=self._learner.steps_done, watermark=learnt)
        problem = self._write(boundary, progress)
        if problem is not None:
            log.error("hand-down of %d failed (%s); the next carries its change", boundary, problem)
            return
        kind: Kind = "full" if self.tracker is None else "delta"
        if self.tracker is not None:
            self.tracker.rebase()
        if self._ranks.rank == 0:
            place = (self._store.directory / str(boundary)).resolve()
            self._announce(
                HandDown(
                    boundary,
                    kind,
                    since=self._handed,
                    location=str(place),
                    version=progress.step,
                    watermark=learnt,
                    size=sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
                )
            )
            for gone in self._store.prune():
                self._forget(gone)
        self._handed = boundary

    def _write(self, boundary: int, progress: Progress) -> str | None:
        """All ranks' parts, sealed and in place; or what went wrong on any rank."""
        steps = [
            self._lead(lambda: self._store.begin(boundary)),
            lambda: self._export(self._store.writing(boundary)),
            self._lead(lambda: self._store.commit(boundary, progress)),
        ]
        for step in steps:
            problem = None
            try:
                step()
            except (OSError, ValueError) as error:
                problem = str(error) or type(error).__name__
            problems = [p for p in self._ranks.exchange(problem) if p is not None]
            if problems:
                self._lead(lambda: self._store.discard(boundary))()
                return "; ".join(problems)
        return None

    def _lead(self, action: Callable[[], object]) -> Callable[[], object]:
        return action if self._ranks.rank == 0 else lambda: None

    def _export(self, directory: Path) -> None:
        if self.tracker is None:
            export_full(self._learner, directory)
        else:
            export_delta(self._learner, self.tracker, directory)
