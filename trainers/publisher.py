"""What a trainer tells the world: predictions as it goes, a model with every checkpoint, and
TPM the vectors of a period at its end."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from kafka.errors import MessageSizeTooLargeError

from embeddings.history import Snapshot
from embeddings.history_records import encode_snapshot, record_key, snapshot_headers
from errors import UserError
from monitoring.recalled import Recalled
from streaming.impressions import Batch, ImpressionSchema
from streaming.predictions import encode_predictions
from streaming.writer import KafkaWriteError, RecordWriter
from trainers.checkpoint import Checkpoint
from trainers.levels import Level


class Publisher:
    def __init__(self, writer: RecordWriter, level: Level, schema: ImpressionSchema) -> None:
        self._writer = writer
        self._level = level
        self._schema = schema

    def predictions(self, batch: Batch, probability_B: np.ndarray, version: int) -> None:
        """One record for each source partition of ``batch``; ``version`` made them."""
        records = encode_predictions(
            batch,
            probability_B,
            version,
            self._level.topic,
            schema=self._schema,
            level=self._level.name,
        )
        for partition, value, headers in records:
            key = f"{self._level.topic}/{partition}".encode()
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
