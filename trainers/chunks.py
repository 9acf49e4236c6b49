"""Batches made ready many at a time: most of what a small one costs is a call's, not a row's.

Legend: B impressions of a chunk, F sparse features, K batches of a chunk, H historical
embeddings a side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby, islice, pairwise

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from streaming.impressions import Batch
from trainers.features import History, ModelBatch

Make = Callable[[pa.RecordBatch], ModelBatch]
"""Makes rows ready, each by itself: what a row becomes must not depend on its neighbours."""


def chunked(
    batches: Iterable[Batch], most: int, key: Callable[[Batch], object]
) -> Iterator[list[Batch]]:
    """Runs of up to ``most`` batches that have one ``key``."""
    for _, run in groupby(batches, key):
        while chunk := list(islice(run, most)):
            yield chunk


def made_ready(chunk: list[Batch], make: Make) -> list[Batch]:
    """The batches of ``chunk``, each with its part of what ``make`` makes of all their rows."""
    whole = make(pa.concat_batches([batch.rows for batch in chunk]))
    parts = split(whole, [len(batch) for batch in chunk])
    return [replace(batch, prepared=part) for batch, part in zip(chunk, parts, strict=True)]


def split(whole: ModelBatch, sizes: Sequence[int]) -> Iterator[ModelBatch]:
    """``whole`` as batches of ``sizes``, which add up to its rows; several have no padding."""
    count = len(sizes)
    if count == 1:
        yield whole
        return
    domains = _split(whole.domain_B, sizes)
    histories = [None] * count if whole.history is None else _histories(whole.history, sizes)
    for size, kjt, numeric, label, weight, history, domain in zip(
        sizes,
        _bags(whole.kjt, sizes),
        whole.numeric_BN.split(list(sizes)),
        whole.label_B.split(list(sizes)),
        whole.weight_B.split(list(sizes)),
        histories,
        domains,
        strict=True,
    ):
        yield ModelBatch(kjt, numeric, label, weight, size, history, domain)


def _split(column_B: torch.Tensor | None, sizes: Sequence[int]) -> Sequence[torch.Tensor | None]:
    return [None] * len(sizes) if column_B is None else column_B.split(list(sizes))


def _histories(whole: History, sizes: Sequence[int]) -> list[History]:
    parts = [tensor.split(list(sizes)) for tensor in whole.tensors()]
    return [History(*tensors) for tensors in zip(*parts, strict=True)]


def _bags(whole: KeyedJaggedTensor, sizes: Sequence[int]) -> Iterator[KeyedJaggedTensor]:
    keys, values = whole.keys(), whole.values().numpy()
    lengths_FB = whole.lengths().numpy().reshape(len(keys), -1)
    edges = [0, *accumulate(sizes)]
    ends = np.concatenate([[0], np.cumsum(lengths_FB)])
    # Where each feature's values of each batch begin, and where the last one's end.
    begins_FK = ends[np.arange(len(keys))[:, None] * lengths_FB.shape[1] + edges].tolist()
    for k, (begin, end) in enumerate(pairwise(edges)):
        own = [values[begins[k] : begins[k + 1]] for begins in begins_FK]
        yield KeyedJaggedTensor(
            keys=keys,
            values=torch.from_numpy(np.concatenate(own)),
            lengths=torch.from_numpy(lengths_FB[:, begin:end].reshape(-1)),
            stride=end - begin,
        )
