"""Which ids were ever seen, in fixed memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.market_random import mix64

HASHES = 6
FULL = 0.5
"""Share of set bits at which a generation is closed."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SeenIds:
    """Two Bloom filters of ``2**bits`` bits, one after the other (Bloom, 1970).

    When the newer is half full, which takes about 0.11 times as many ids as it has
    bits, it becomes the older and an empty one takes its place: the last ids are
    known, those from before are forgotten. An id that was seen and is not forgotten
    is always found; one that was not is taken for seen with a probability of at most
    2 (1/2 + 6/256)**6 = 4 %.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._part = max((1 << bits) // 256, 1)
        self._newer = np.zeros(1 << bits, bool)
        self._older = np.zeros(1 << bits, bool)

    def first_seen(self, ids: NDArray) -> int:
        """How many distinct ones of ids [N] were not seen before; from now on they are.

        However ids are cut into batches, the sum is the same but for the filters' errors.
        """
        new, distinct = 0, np.unique(ids)
        # In parts, so that a filter is not much more than half full when it is closed.
        for part in np.array_split(distinct, -(-len(distinct) // self._part) or 1):
            new += int((~self.known(part)).sum())
            self._add(part)  # known ones too, so that the newer filter has them
        return new

    def known(self, ids: NDArray) -> NDArray[np.bool_]:
        """Which of the ids [N] were seen; wrongly True for :meth:`error` of the others."""
        places = self._places(ids)
        return np.asarray(self._newer[places].all(axis=1) | self._older[places].all(axis=1))

    def _add(self, ids: NDArray) -> None:
        self._newer[self._places(ids)] = True
        if self._newer.mean() > FULL:
            self._older, self._newer = self._newer, np.zeros_like(self._newer)

    def error(self) -> float:
        """Probability that an id never seen is taken for seen."""
        wrong = [float(part.mean()) ** HASHES for part in (self._newer, self._older)]
        return 1 - (1 - wrong[0]) * (1 - wrong[1])

    def _places(self, ids: NDArray) -> NDArray[np.int64]:
        """[N, HASHES]: two hashes of an id give all (Kirsch and Mitzenmacher, 2006)."""
        one = mix64(ids.astype(np.uint64) + _GOLDEN)
        two = mix64(one + _GOLDEN) | np.uint64(1)
        places = one[:, None] + np.arange(HASHES, dtype=np.uint64) * two[:, None]
        return (places >> np.uint64(64 - self._bits)).astype(np.int64)

    def state(self) -> NDArray[np.uint8]:
        """uint8 [2, 2**bits / 8]."""
        return np.packbits(np.stack([self._newer, self._older]), axis=1)

    def from_state(self, state: NDArray[np.uint8]) -> None:
        """Take over a state of as many bits; another's is no use."""
        if state.shape == (2, (1 << self._bits) // 8):
            self._newer, self._older = np.unpackbits(state, axis=1).astype(bool)
