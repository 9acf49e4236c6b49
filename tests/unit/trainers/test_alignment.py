from collections import deque

from log_support import impressions

from streaming.impressions import Batch, SourceRows
from trainers.alignment import AlignedReader


def batch(i: int) -> Batch:
    return Batch(impressions([i]), SourceRows(*([i],) * 3), {}, watermark=i)  # type: ignore[arg-type]


class Held:
    """A reader of batches in memory."""

    def __init__(self, count: int) -> None:
        self.batches = deque(batch(i) for i in range(count))

    @property
    def finished(self) -> bool:
        return not self.batches

    def next_batch(self, timeout: float) -> Batch | None:
        return self.batches.popleft() if self.batches else None


def test_a_batch_is_held_until_it_may_go_and_none_is_lost():
    there: set[int] = {0}
    reader = AlignedReader(Held(3), lambda batch, timeout: batch.watermark in there)
    found = []
    for allowed in (1, None, None, 2, None):
        if (ready := reader.next_batch(0.0)) is not None:
            found.append(ready.watermark)
        there |= {allowed}
    assert found == [0, 1, 2]
    assert reader.finished


def test_what_is_held_back_is_not_finished():
    reader = AlignedReader(Held(1), lambda batch, timeout: False)
    assert reader.next_batch(0.0) is None
    assert not reader.finished


def test_the_wait_is_as_long_as_the_loop_allows():
    waits = []
    reader = AlignedReader(Held(1), lambda batch, timeout: bool(waits.append(timeout)))
    reader.next_batch(0.25)
    assert waits == [0.25]


def test_nothing_to_read_is_nothing_to_wait_for():
    reader = AlignedReader(Held(0), lambda batch, timeout: 1 / 0)
    assert reader.next_batch(0.0) is None
    assert reader.finished
