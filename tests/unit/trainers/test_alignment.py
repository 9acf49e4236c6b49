from history_support import Listed, batch_of

from streaming.impressions import Batch
from trainers.alignment import AlignedReader


def listed(count: int) -> Listed:
    return Listed(*(batch_of([i]) for i in range(count)))


def number(batch: Batch) -> int:
    return batch.rows.column("impression_id")[0].as_py()


def test_a_batch_is_held_until_it_may_go_and_none_is_lost():
    there: set[int | None] = {0}
    reader = AlignedReader(listed(3), lambda batch, timeout: number(batch) in there)
    found = []
    for allowed in (1, None, None, 2, None):
        if (ready := reader.next_batch(0.0)) is not None:
            found.append(number(ready))
        there |= {allowed}
    assert found == [0, 1, 2]
    assert reader.finished


def test_what_is_held_back_is_not_finished():
    reader = AlignedReader(listed(1), lambda batch, timeout: False)
    assert reader.next_batch(0.0) is None
    assert not reader.finished


def test_the_wait_is_as_long_as_the_loop_allows():
    waits = []
    reader = AlignedReader(listed(1), lambda batch, timeout: bool(waits.append(timeout)))
    reader.next_batch(0.25)
    assert waits == [0.25]


def test_nothing_to_read_is_nothing_to_wait_for():
    reader = AlignedReader(listed(0), lambda batch, timeout: 1 / 0)
    assert reader.next_batch(0.0) is None
    assert reader.finished
