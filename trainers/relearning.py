"""After a whole model came from CPM: the ads of the last window, learnt once more.

The model knows nothing of them, as it is made of natural impressions alone. They were
predicted when they came; learning them again predicts nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from config import Config

T = TypeVar("T")


class Relearning(Generic[T]):
    """Keeps what stands for each batch of CPM's last window, where whole models are handed down.

    Args:
        learn: learns the batches that these stand for, in order; how many impressions.
    """

    def __init__(self, config: Config, learn: Callable[[Sequence[T]], int]) -> None:
        self._wanted = config.actr.transfer == "reinitialize" and config.actr.transfer_relearns
        self._window_ms, self._learn = config.cpm.cadence_ms, learn
        self.kept: deque[tuple[int, T]] = deque()
        """With each batch's watermark, ms."""
        self.samples = 0
        """Impressions that were learnt again so far."""

    def keep(self, batch: T, watermark: int) -> None:
        """``batch`` is about to be learnt, and holds nothing beyond ``watermark``, ms."""
        if not self._wanted:
            return
        self.kept.append((watermark, batch))
        while self.kept[0][0] < watermark - self._window_ms:
            self.kept.popleft()

    def again(self) -> int:
        """Learn the last window; how many impressions."""
        learnt = self._learn([batch for _, batch in self.kept]) if self._wanted else 0
        self.samples += learnt
        return learnt
