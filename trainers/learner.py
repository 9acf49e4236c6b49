"""One model that learns: a step at a time, with its state saved and restored.

A step predicts with what was known before, then learns, and looks embeddings up
once for both. Tables learn by row-wise Adagrad fused into the backward pass, dense
weights by Adam.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingEnv
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from embeddings.cpu_adagrad import use_compact_adagrad
from embeddings.cpu_collision import clear_rows_on_cpu
from embeddings.tables import bind_vocabularies, sharders
from embeddings.vocabulary import ManagedIds
from streaming.impressions import ImpressionSchema
from trainers.distributed import Place, join
from trainers.features import BatchMaker, ModelBatch
from trainers.model import TrainTask
from trainers.planning import Machine, sharding_plan
from trainers.settings import LevelConfig
from trainers.state import (
    Hidden,
    Snapshot,
    State,
    copy_to_host,
    flat_state,
    read_state,
    write_state,
)

__all__ = ["Learner", "Snapshot", "VocabularyStats", "write_state"]

_OUTPUT_BIAS = "dense.output.bias"


@dataclass(frozen=True)
class VocabularyStats:
    """A managed table's vocabulary on this rank."""

    rows: int
    rows_in_use: int
    admitted_total: int
    evicted_total: int

    @property
    def occupancy(self) -> float:
        """Share of the rows that belong to an id."""
        return self.rows_in_use / self.rows


class Learner:
    """A level's model on this rank, its optimizers and its vocabulary.

    Every rank must call `step`, `predict` and `load` the same number of times, as
    embeddings are exchanged within them.

    Raises:
        UserError: the device that was asked for is not there, the tables do not fit the
            machine, or the number of ranks does not divide ``id_buckets``.
    """

    def __init__(self, config: LevelConfig, schema: ImpressionSchema) -> None:
        self.config, self.schema = config, schema
        self.make = BatchMaker(schema, config.model)
        self.place = join(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.steps_done = 0
        self.model = _sharded(config, schema, self.place)
        self.vocabularies: dict[str, ManagedIds] = bind_vocabularies(self.model)
        if self.device.type == "cpu":
            clear_rows_on_cpu(self.model)
            use_compact_adagrad()
        self.optimizer = _optimizer(self.model, config)

    @property
    def device(self) -> torch.device:
        return self.place.device

    def to_batch(self, rows: pa.RecordBatch, pad_to: int | None = None) -> ModelBatch:
        """Canonical ``rows`` as this model reads them; ranks need batches of one size."""
        return self.make(rows, pad_to)

    def step(self, batch: ModelBatch) -> tuple[np.ndarray, float]:
        """Predict ``batch`` with what is known, then learn it.

        Returns:
            The probabilities [rows of this rank's batch, float32] from before
            learning, and the mean loss over all ranks.
        """
        batch = batch.to(self.device)
        self.model.train()
        self.optimizer.zero_grad()
        loss, (loss_now, probability_B) = self.model(batch)
        loss.backward()
        self.optimizer.step()
        self.steps_done += 1
        return self._result(batch.rows, loss_now, probability_B)

    def steps(
        self, batches: Iterable[ModelBatch], pipelined: bool | None = None
    ) -> Iterator[tuple[np.ndarray, float]]:
        """`step` over ``batches``, in order, with the same results.

        ``pipelined`` (default: on GPUs): the next batches are copied to the device and
        their ids exchanged between ranks while one is learnt, so up to three are taken
        from ``batches`` ahead of the results; call nothing else until it is exhausted
        or closed.
        """
        if pipelined is None:
            pipelined = self.device.type == "cuda"
        if not pipelined:
            yield from map(self.step, batches)
            return
        self.model.train()
        rows: deque[int] = deque()
        source = _noting_rows(batches, rows)
        pipeline = TrainPipelineSparseDist(
            self.model, self.optimizer, self.device, execute_all_batches=True
        )
        try:
            while True:
                try:
                    loss, probability_B = pipeline.progress(source)
                except StopIteration:
                    return
                self.steps_done += 1
                yield self._result(rows.popleft(), loss, probability_B)
        finally:
            pipeline.detach()

    @torch.no_grad()
    def predict(self, batch: ModelBatch) -> np.ndarray:
        """Probabilities [rows, float32]; nothing is learnt or recorded."""
        self.model.eval()
        _, (_, probability_B) = self.model(batch.to(self.device))
        return probability_B[: batch.rows].cpu().numpy()

    def state(self) -> State:
        """Name to live tensor: what `torch.distributed.checkpoint` saves and loads."""
        return flat_state(self.model, self.optimizer)

    def hidden_state(self) -> Hidden:
        """Copies of what this rank's next step depends on besides `state`."""
        return {
            "world_size": self.place.world_size,
            "steps_done": self.steps_done,
            "vocabularies": {
                name: vocabulary.hidden_state() for name, vocabulary in self.vocabularies.items()
            },
        }

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """A copy of everything in host memory, for `write_state` to write meanwhile.

        ``into``: an earlier snapshot that nobody needs any more; its memory is used again.
        """
        return Snapshot(
            state=copy_to_host(self.state(), None if into is None else into.state),
            hidden=self.hidden_state(),
            rank=self.place.rank,
            world_size=self.place.world_size,
        )

    def load(self, directory: Path) -> None:
        """Go on from what `write_state` wrote, with any number of ranks.

        On as many ranks as wrote it the next steps give the same bits as if there
        had been no interruption. On another number no id is lost, except where a
        nearly full vocabulary does not divide evenly, and weights are the same.
        """
        hidden = read_state(self.state(), directory, self.place.rank, self.place.world_size)
        self.steps_done = hidden["steps_done"]
        for name, vocabulary in self.vocabularies.items():
            vocabulary.load_hidden_state(hidden["vocabularies"][name])

    def vocabulary_stats(self) -> dict[str, VocabularyStats]:
        """Managed table to what became of its rows, on this rank."""
        return {
            name: VocabularyStats(
                rows=vocabulary.output_size(),
                rows_in_use=vocabulary.rows_in_use(),
                admitted_total=vocabulary.admitted_total,
                evicted_total=vocabulary.evicted_total,
            )
            for name, vocabulary in self.vocabularies.items()
        }

    def _result(
        self, rows: int, loss: torch.Tensor, probability_B: torch.Tensor
    ) -> tuple[np.ndarray, float]:
        if self.place.world_size > 1:
            loss = loss / self.place.world_size
            dist.all_reduce(loss)
        return probability_B[:rows].cpu().numpy(), float(loss)


def _noting_rows(batches: Iterable[ModelBatch], rows: deque[int]) -> Iterator[ModelBatch]:
    for batch in batches:
        rows.append(batch.rows)
        yield batch


def _sharded(
    config: LevelConfig, schema: ImpressionSchema, place: Place
) -> DistributedModelParallel:
    kind = place.device.type
    # Dense weights come from the seed, on every rank the same; tables need no generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        task = TrainTask(
            schema, config.model, torch.device("cpu"), place.world_size, torch.device("meta")
        )
    task.dense.to(place.device)
    group = dist.GroupMember.WORLD
    assert group is not None
    return DistributedModelParallel(
        task,
        env=ShardingEnv.from_process_group(group),
        device=place.device,
        plan=sharding_plan(task, config, schema, _machine(place), group),
        sharders=sharders(kind, config.optimizer),
        # One rank has nobody to average with; DDP would cost it a copy of every gradient.
        init_data_parallel=place.world_size > 1,
    )


def _machine(place: Place) -> Machine:
    on_gpu = place.device.type == "cuda"
    return Machine(
        device=place.device.type,
        ranks=place.world_size,
        device_bytes=torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
        host_bytes=psutil.virtual_memory().total,
        ranks_a_host=place.local_world_size,
    )


def _optimizer(model: DistributedModelParallel, config: LevelConfig) -> CombinedOptimizer:
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    rate = config.optimizer.dense_learning_rate
    adam = KeyedOptimizerWrapper(
        dense, lambda _: torch.optim.Adam(_groups(dense, config), lr=rate, fused=True)
    )
    # Adam makes its state at the first step; a checkpoint before it must have it too.
    for parameter in dense.values():
        adam.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return CombinedOptimizer([model.fused_optimizer, ("dense", adam)])


def _groups(dense: dict[str, torch.nn.Parameter], config: LevelConfig) -> list[dict[str, Any]]:
    """Adam's parameter groups: the output's bias is one where it has a rate of its own."""
    own = {n for n in dense if config.optimizer.bias_learning_rate and n.endswith(_OUTPUT_BIAS)}
    groups: list[dict[str, Any]] = [{"params": [p for n, p in dense.items() if n not in own]}]
    if own:
        rate = config.optimizer.bias_learning_rate
        groups.append({"params": [dense[n] for n in own], "lr": rate})
    return groups
