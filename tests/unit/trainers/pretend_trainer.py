"""A pretend trainer whose state is a running sum: nothing lost, nothing twice."""

import itertools
import json
import threading

import numpy as np
import pyarrow as pa

from streaming.impressions import Batch, Position, SourceRows
from trainers.checkpoint import CheckpointStore, Progress
from trainers.loop import Loop
from trainers.ranks import Ranks
from trainers.saver import Saver
from trainers.schedule import Schedule

SIZE = 4


def batches(count: int, start: int = 0) -> list[Batch]:
    made = []
    for i in range(start, count):
        rows = pa.record_batch({"x": np.arange(i * SIZE, (i + 1) * SIZE)})
        offsets = np.arange(i * SIZE, (i + 1) * SIZE)
        source = SourceRows(np.zeros(SIZE, np.int32), offsets, np.zeros(SIZE, np.int32))
        made.append(Batch(rows, source, {0: Position((i + 1) * SIZE)}, watermark=i))
    return made


class Listed:
    """A reader over a list; ``stop_after`` presses Ctrl-C, as it were."""

    def __init__(self, items, stopping, stop_after=None):
        self.items, self.stopping, self.left = list(items), stopping, stop_after

    @property
    def finished(self):
        return not self.items

    def next_batch(self, timeout):
        if not self.items or self.stopping.is_set():
            return None
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.stopping.set()
        return self.items.pop(0)


class Boundaries:
    """Notes what its world had learnt, and had under way, at every boundary."""

    def __init__(self, world, schedule, closed):
        self.world, self.schedule, self.closed = world, schedule, closed
        self.seen = []  # (boundaries, sum before, under way, first x of the batch beyond)

    def due(self, batch):
        return self.schedule.due(self.closed, batch.watermark)

    def act(self, batch):
        over = self.schedule.crossed(self.closed, batch.watermark)
        beyond = batch.rows["x"][0].as_py()
        if over:
            self.seen.append((over, self.world.sum, self.world.under_way, beyond))
            self.closed = over[-1]
        return {"period": self.closed} | self.schedule.marks()


class World:
    """One pretend trainer's life on top of a folder that outlives it."""

    def __init__(
        self,
        folder,
        items,
        *,
        every=3,
        stop_after=None,
        broken_disk=(),
        diverge_at=None,
        ahead=1,
        boundary_ms=None,
        marking=False,
        begun=0,
        early=None,
    ):
        """``early`` makes the schedule, of this world and the marks that it goes on from;
        ``begun``: the boundary behind it when its log begins."""
        self.store = CheckpointStore(folder, keep=2)
        self.store.prepare()
        found = self.store.latest()
        self.diverge_at, self.ahead = diverge_at, ahead
        self.sum, progress = 0, Progress(topic="t", marks={"period": begun} if begun else {})
        if found is not None:
            progress = found.progress
            self.sum = json.loads((found.path / "sum.json").read_text())
        stopping = threading.Event()
        self.events, self.gathered = [], []
        self.saved, self.broken = [], set(broken_disk)
        self.ranks = Ranks()
        self.saver = Saver(self.store, self.ranks, self.durable, self.saved.append)
        self.under_way = 0
        boundary, self.schedule = None, None
        if early is not None:
            self.schedule = early(self, progress.marks)
        elif boundary_ms is not None:
            self.schedule = Schedule(boundary_ms)
        if self.schedule is not None:
            boundary = Boundaries(self, self.schedule, progress.marks.get("period", 0))
        done = progress.positions.get(0, Position(0)).offset // SIZE
        self.loop = Loop(
            reader=Listed(items[done:], stopping, stop_after),
            learn=self.learn,
            publish=lambda batch, p, version: self.gathered.append(("publish", version)),
            flush=self.flush,
            watcher=self,
            snapshot=self.snapshot,
            saver=self.saver,
            every_batches=every,
            progress=progress,
            ranks=self.ranks,
            stopping=stopping,
            boundary=boundary,
            marks=self.marks,
        )
        self.marking = marking

    def marks(self, progress):
        taken = {"taken at": progress.step} if self.marking else {}
        return taken | (self.schedule.accept(progress) if self.schedule else {})

    def learnt(self, batch, probability_B, loss, seconds):
        self.events.append(("learnt",))

    def turn(self, progress):
        pass

    def stalled(self, seconds):
        pass

    def flush(self):
        self.events += self.gathered
        self.gathered.clear()

    def durable(self):
        self.events.append(("durable",))

    def learn(self, batches):
        """Like a pipeline: takes up to ``ahead`` batches before the first result."""
        batches = map(self.taken, batches)
        waiting = list(itertools.islice(batches, self.ahead))
        while waiting:
            yield self.step(waiting.pop(0))
            waiting += itertools.islice(batches, 1)

    def taken(self, batch):
        self.under_way += 1
        return batch

    def step(self, batch):
        self.under_way -= 1
        self.sum += sum(batch.rows["x"].to_pylist())
        loss = float("nan") if self.loop.progress.step + 1 == self.diverge_at else 0.0
        return np.zeros(len(batch), np.float32), loss

    def snapshot(self):
        value, step = self.sum, self.loop.progress.step

        def write(directory):
            if step in self.broken:
                raise OSError("No space left on device")
            (directory / "sum.json").write_text(json.dumps(value))
            return {}

        return write

    def run(self):
        progress = self.loop.run()
        self.saver.close()
        return progress
