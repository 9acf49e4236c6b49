"""A stream with ten times more distinct ids than rows: managed vocabulary against hashing."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss
from synthetic_stream import SCHEMA, impressions

from trainers.learner import Learner
from trainers.settings import LevelConfig, ModelConfig, OptimizerConfig, TableConfig

ROWS = 256
ACTIVE = 160
STEPS = 310
SIZE = 512
NEW_USERS = 8  # a step


def config(vocabulary: str) -> LevelConfig:
    return LevelConfig(
        batch_size=SIZE,
        device="cpu",
        model=ModelConfig(
            dim=8,
            ids=TableConfig(rows=ROWS, vocabulary=vocabulary, eviction="distance_lfu"),
            eviction_interval=2,
            hidden=(16,),
        ),
        optimizer=OptimizerConfig(table_learning_rate=0.2, dense_learning_rate=0.005),
    )


@pytest.fixture(scope="module")
def stream() -> list[pa.RecordBatch]:
    batches = []
    for step in range(STEPS):
        rows = impressions(step, SIZE, users=ACTIVE, items=60, first_user=step * NEW_USERS)
        batches.append(rows)
    return batches


def learn(vocabulary: str, stream: list[pa.RecordBatch]) -> tuple[Learner, np.ndarray]:
    """Log loss of the predictions made before learning, for every third of the stream."""
    learner = Learner(config(vocabulary), SCHEMA)
    predicted = [learner.step(learner.to_batch(rows))[0] for rows in stream]
    thirds = np.array_split(np.arange(len(stream)), 3)
    return learner, np.array(
        [
            log_loss(
                np.concatenate([stream[i].column("click").to_numpy() for i in third]),
                np.concatenate([predicted[i] for i in third]),
            )
            for third in thirds
        ]
    )


def test_it_keeps_learning_and_beats_hashing_into_as_many_rows(stream):
    users = np.unique(np.concatenate([rows.column("user_id").to_numpy() for rows in stream]))
    assert len(users) >= 10 * ROWS
    managed, managed_loss = learn("managed", stream)
    hashed, hashed_loss = learn("hashed", stream)
    stats = managed.vocabulary_stats()["user_id"]
    assert stats.occupancy > 0.9
    assert stats.evicted_total > 5 * ROWS
    assert stats.admitted_total == stats.evicted_total + stats.rows_in_use
    assert hashed.vocabulary_stats() == {}
    assert managed_loss[-1] <= managed_loss[0]
    assert managed_loss[-1] < hashed_loss[-1] - 0.01
