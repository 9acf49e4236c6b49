"""Looking for records of strangers while partitions come and go."""

import asyncio
from types import SimpleNamespace

import pytest

from embeddings.refresh_worker import Worker


class Shard:
    partition, again = 2, 0

    def publish_again(self):
        self.again += 1


def look(leaves: bool, end: int) -> Shard:
    """A worker left partition 2 at 5, and Kafka says that it ends at ``end``."""
    worker, shard = object.__new__(Worker), Shard()

    async def highwaters(*places):
        if leaves:
            worker.shards.clear()
        return dict.fromkeys(places, end)

    worker.app = SimpleNamespace(consumer=SimpleNamespace(highwaters=highwaters))
    worker.shards, worker._ends = {2: shard}, {2: 5}
    worker._topics = SimpleNamespace(historical="embeddings.historical")
    worker._one_at_a_time = asyncio.Lock()
    asyncio.run(worker._look_for_strangers())
    return shard


@pytest.mark.parametrize(
    ("leaves", "end", "again"), [(False, 5, 0), (False, 6, 1), (True, 6, 0)],
    ids=["nobody wrote", "somebody did", "it has left"],
)  # fmt: skip
def test_all_is_said_again_where_somebody_else_wrote(leaves, end, again):
    assert look(leaves, end).again == again
