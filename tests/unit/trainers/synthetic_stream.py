"""A small, learnable stream of canonical impressions, for tests of models."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from streaming.impressions import ImpressionSchema

# Batches are tiny here; threads that wait for each other on a busy machine cost more.
torch.set_num_threads(1)

SCHEMA = ImpressionSchema()


def impressions(
    seed: int, count: int, users: int = 300, items: int = 100, first_user: int = 0
) -> pa.RecordBatch:
    """``count`` impressions whose clicks follow a hidden inner product of user and item."""
    rng = np.random.default_rng(seed)
    user = first_user + rng.zipf(1.3, count) % users
    item = rng.zipf(1.3, count) % items
    click = rng.random(count) < click_probability(user, item)
    length = rng.integers(0, 4, count)
    ends = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
    columns = {
        "impression_id": np.arange(count) + seed * 1_000_000,
        "event_time": np.arange(count) + 1_700_000_000_000,
        "click": click,
        "user_id": user,
        "item_id": item,
        "creative_id": pa.array(item * 2, mask=rng.random(count) < 0.3),
        "recent_items": pa.ListArray.from_arrays(ends, rng.integers(0, items, ends[-1])),
        "segment": user % 7,
        "category": item % 9,
        "position": rng.integers(0, 5, count),
        "hour": rng.integers(0, 24, count),
        "user_age": rng.exponential(30.0, count),
        "item_age": rng.exponential(30.0, count),
    }
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name]).cast(field.type)
        for field in SCHEMA.arrow
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA.arrow)


def click_probability(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Hidden vectors of two dimensions, from sines of the ids."""
    affinity = np.sin(user * 1.7) * np.sin(item * 2.3) + np.cos(user * 0.9) * np.cos(item * 3.1)
    return 1 / (1 + np.exp(-(2.5 * affinity - 1.5)))
