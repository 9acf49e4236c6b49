"""Two ranks as threads of one process."""

from __future__ import annotations

import threading

from trainers.ranks import Ranks


class Side(Ranks):
    """One of two ranks that are threads of one process."""

    def __init__(self, rank, meeting, values):
        self.rank, self.size = rank, 2
        self._meeting, self._values = meeting, values

    def exchange(self, value):
        self._values[self.rank] = value
        self._meeting.wait(60)
        found = list(self._values)
        self._meeting.wait(60)
        return found


def two_ranks() -> list[Side]:
    """Ranks that wait for each other."""
    meeting, values = threading.Barrier(2), [None, None]
    return [Side(rank, meeting, values) for rank in range(2)]


def together(*actions):
    """Each in a thread of its own."""
    results, threads = [None] * len(actions), []
    for i, action in enumerate(actions):

        def act(i=i, action=action):
            results[i] = action()

        threads.append(threading.Thread(target=act))
        threads[-1].start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return results
