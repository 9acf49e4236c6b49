"""After a whole model came from CPM: the ads of the last window, learnt once more.

The model knows nothing of them, as it is made of natural impressions alone. They were
predicted when they came; learning them again predicts nothing.
"""

from __future__ import annotations

from collections import deque

from config import Config
from streaming.impressions import Batch
from trainers.features import ModelBatch
from trainers.hand_down import HANDED
from trainers.learner import Learner
from trainers.loop import Boundary


class Relearning:
    """Keeps the batches of CPM's last window, where whole models are handed down."""

    def __init__(self, learner: Learner, config: Config) -> None:
        self._learner = learner
        self._wanted = config.replay.relearn and config.actr.transfer == "reinitialize"
        self._window_ms = config.cpm.cadence_ms
        self._kept: deque[tuple[int, ModelBatch]] = deque()
        self.samples = 0
        """Impressions that were learnt again so far."""

    def keep(self, batch: ModelBatch, watermark: int) -> None:
        """``batch`` is about to be learnt, and holds nothing beyond ``watermark``, ms."""
        if not self._wanted:
            return
        self._kept.append((watermark, batch))
        while self._kept[0][0] < watermark - self._window_ms:
            self._kept.popleft()

    def after(self, boundary: Boundary) -> Boundary:
        """``boundary``, and learning again whenever it took a model."""
        return _After(boundary, self)

    def learn(self) -> None:
        for _, batch in self._kept:
            self._learner.step(batch)
            self.samples += batch.rows


class _After:
    def __init__(self, boundary: Boundary, again: Relearning) -> None:
        self._boundary, self._again, self._handed = boundary, again, 0

    def due(self, batch: Batch) -> bool:
        return self._boundary.due(batch)

    def act(self, batch: Batch | None) -> dict[str, int]:
        marks = self._boundary.act(batch)
        if marks[HANDED] != self._handed:
            self._handed = marks[HANDED]
            self._again.learn()
        return marks
