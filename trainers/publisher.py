"""What a trainer tells the world: predictions as it goes, a model with every checkpoint, and
TPM the vectors of a period at its end."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from kafka.errors import MessageSizeTooLargeError

from embeddings.history import Snapshot
from embeddings.history_records import encode_snapshot, record_key, snapshot_headers
from errors import UserError
from monitoring.recalled import Recalled
from streaming.impressions import Batch, ImpressionSchema
from streaming.predictions import Predicted, encode_rows, prediction_rows
from streaming.writer import KafkaWriteError, RecordWriter
from trainers.checkpoint import Checkpoint
from trainers.levels import Level

GROUP_ROWS = 32_768
GROUP_SECONDS = 0.5
"""Predictions wait for others, at the most so many and so long: a record costs everyone who
handles it far more than the rows in it."""


class Publisher:
    def __init__(self, writer: RecordWriter, level: Level, schema: ImpressionSchema) -> None:
        self._writer = writer
        self._level = level
        self._schema = schema
        self._predicted: list[Predicted] = []
        self._count, self._since = 0, 0.0
        self._appended_at: int | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._sending: Future[None] | None = None

    def predictions(self, batch: Batch, probability_B: np.ndarray, version: int) -> None:
        """What ``version`` predicted for ``batch``; goes out with the next ones, see `flush`."""
        if not self._predicted:
            self._since, self._appended_at = time.monotonic(), batch.appended_at
        elif self._appended_at is not None and batch.appended_at is not None:
            self._appended_at = min(self._appended_at, batch.appended_at)
        self._predicted.append(Predicted(batch.rows, batch.source, probability_B, version))
        self._count += len(batch)
        if self._count >= GROUP_ROWS or time.monotonic() - self._since >= GROUP_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Have what was predicted put together and sent: a record or more for each source
        partition. It waits for the ones before, so that they cannot pile up.

        Raises:
            KafkaWriteError: the ones before could not be sent.
        """
        if not self._predicted:
            return
        self.settle()
        predicted, self._predicted, self._count = self._predicted, [], 0
        self._sending = self._thread.submit(self._send, predicted, self._appended_at)

    def settle(self) -> None:
        """Wait until the writer has everything that was flushed; may be called from any thread.

        Raises:
            KafkaWriteError: it could not be sent.
        """
        if self._sending is not None:
            self._sending.result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _send(self, predicted: list[Predicted], appended_at: int | None) -> None:
        rows = prediction_rows(predicted, self._schema)
        topic = self._level.topic
        for partition, value, headers in encode_rows(
            rows, topic, level=self._level.name, appended_at=appended_at
        ):
            key = f"{topic}/{partition}".encode()
            self._writer.send(self._level.predictions, value, key=key, headers=headers)

    def model(
        self,
        checkpoint: Checkpoint,
        metrics: dict[str, float],
        recalled: Recalled | None = None,
    ) -> None:
        """Announce ``checkpoint`` on the level's compacted topic; saying it twice is harmless.

        ``recalled``: what it knows of past periods, where that is measured.
        """
        value: dict[str, Any] = {
            "version": checkpoint.progress.step,
            "location": str(checkpoint.path.resolve()),
            "watermark": checkpoint.progress.watermark,
            "impressions": checkpoint.progress.impressions,
            # JSON has no NaN: an undefined metric is null.
            "metrics": {k: None if math.isnan(v) else v for k, v in metrics.items()},
        }
        if recalled is not None:
            value["recall"] = recalled.plain()
        key = self._level.name.encode()
        headers = [("content-type", b"application/json")]
        self._writer.send(self._level.models, json.dumps(value).encode(), key=key, headers=headers)

    def snapshot(self, snapshot: Snapshot) -> None:
        """One bucket of a period; saying it twice is harmless.

        Raises:
            UserError: it is too large for a record.
        """
        topic, key = self._level.snapshots, record_key(snapshot.kind, snapshot.bucket)
        value = encode_snapshot(snapshot)
        try:
            self._writer.send(topic, value, key=key, headers=snapshot_headers(snapshot))
        except KafkaWriteError as error:
            if not isinstance(error.__cause__, MessageSizeTooLargeError):
                raise
            raise UserError(
                f"the snapshot of {key.decode()} takes {len(value):,} bytes, too many for a "
                "record: raise history.buckets"
            ) from error
