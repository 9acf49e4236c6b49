"""A log with every kind of damage in it."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
from log_support import START_MS, impressions

from streaming.codec import encode
from streaming.writer import RecordWriter


def changed(i: int, **values) -> bytes:
    rows = impressions([i])
    for name, value in values.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at).with_nullable(True), value)
    return encode(rows)


def damaged(i: int, rng: np.random.Generator) -> bytes:
    """One damaged impression, in one of ten ways."""
    good = encode(impressions([i]))
    json = {"impression_id": i, "event_time": START_MS, "click": 0, "user_id": 1, "item_id": 2}
    kinds = (
        lambda: good[: int(rng.integers(8, len(good) - 8))],
        lambda: b"",
        lambda: rng.bytes(50),
        lambda: changed(i, click=pa.array([7], pa.int8())),
        lambda: changed(i, event_time=pa.array([1], pa.int64())),
        lambda: changed(i, user_id=pa.array([-5], pa.int64())),
        lambda: encode(impressions([i]).drop_columns(["item_id"])),
        lambda: orjson.dumps(json)[:-3],
        lambda: orjson.dumps(json | {"click": "maybe"}),
        lambda: orjson.dumps(json | {"event_time": 10**15}),
    )
    return kinds[i % len(kinds)]()


def write_damaged_log(writer: RecordWriter, topic: str, good: int, bad: int) -> int:
    """``bad`` damaged records among ``good`` good impressions, ids from 0 on.

    Good ones stand alone, in company, and with one bad row amidst them; returns how many
    bad rows (click 7, the row 44 of its record) there are besides the damaged records.
    """
    rng = np.random.default_rng(1)
    clicks = pa.array([0] * 44 + [7], pa.int8())  # the last row of 45 is bad
    next_good = 0
    for i in range(bad):
        writer.send(topic, damaged(i, rng), partition=i % 4, timestamp_ms=START_MS)
        if i % 5 == 0:
            rows = impressions([*range(next_good, next_good + 44), 10**9])
            value = encode(rows.set_column(2, "click", clicks))
            writer.send(topic, value, partition=i % 3, timestamp_ms=START_MS)
            next_good += 44
        elif i % 5 < 4:
            value = encode(impressions([next_good]))
            writer.send(topic, value, partition=i % 3, timestamp_ms=START_MS)
            next_good += 1
    value = encode(impressions(range(next_good, good)))
    writer.send(topic, value, partition=3, timestamp_ms=START_MS)
    writer.flush(60)
    return (bad + 4) // 5
