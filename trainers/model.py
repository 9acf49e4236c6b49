"""A-CTR's network, which CPM shares; TPM is the same with fewer features and no crosses.

    ids, categories --> embedding tables --> bags [B, F x D] --+
    numerics [B, N] -------------------------------------------+--> x [B, I]
    historical embeddings, when there are slots for them ------+

    x --> crosses ------------------------------+
    x --> MLP with BatchNorm -------------------+--> logit
    user . item, user . mean(recent items), ... +

Crosses are DCNv2's low-rank ones (Wang et al. 2021). The inner products enter the
logit directly, because an MLP alone was seen not to find them.

Legend: B impressions, F sparse features, D embedding width, N numerics, I inputs of
the dense part, P inner products, K inputs from historical embeddings, U units of the MLP.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedTensor

from embeddings.tables import hashed_collection, managed_collection, table_specs
from errors import UserError
from streaming.impressions import ImpressionSchema
from trainers.batch_norm import BatchNorm, DomainNorms
from trainers.crosses import CrossNet
from trainers.features import ModelBatch
from trainers.history_attention import HistoryInputs
from trainers.inputs import Means, dense_inputs
from trainers.products import Linear
from trainers.settings import ModelConfig

_ALIGNED = 16
"""Inputs are filled up with zeros to a multiple of this: matrix products of other widths
were seen to take up to half as long again."""
INITIAL_CTR = 0.05
"""What the model predicts before it has learnt anything."""


@dataclass
class Activations:
    """What predicting and learning have in common: all that no BatchNorm comes before."""

    first_BU: torch.Tensor  # the MLP's first layer, or x itself without hidden layers
    direct_B: torch.Tensor  # part of the logit: crosses and inner products
    domain_B: torch.Tensor | None = None  # int64, with BatchNorms for each domain

    def detach(self) -> Activations:
        return Activations(self.first_BU.detach(), self.direct_B.detach(), self.domain_B)


class Dense(nn.Module):
    """From pooled embeddings to logits; replicated on every rank."""

    def __init__(self, schema: ImpressionSchema, config: ModelConfig, world_size: int = 1) -> None:
        super().__init__()
        # Drawn before all else: with a history it starts as what it were without.
        plain = Dense(schema, _without_history(config)) if config.history_slots else None
        self.features = schema.sparse
        self.dim = config.dim
        self.world_size = world_size
        self.history = HistoryInputs(config) if config.history_slots else None
        self.pairs = inner_product_pairs(schema)
        inputs = len(self.features) * config.dim + len(schema.numeric)
        products = len(self.pairs)
        if self.history is not None:
            inputs += self.history.width
            products += 1
        self.padding = -inputs % _ALIGNED
        inputs += self.padding
        self.cross = (
            CrossNet(inputs, config.cross_layers, config.cross_rank)
            if config.cross_layers
            else None
        )
        widths = (inputs, *config.hidden)
        # BatchNorm takes a bias out again: its gradient would be rounding noise, which Adam
        # blows up to full steps.
        self.layers = nn.ModuleList(
            Linear(i, o, bias=not config.batch_norm) for i, o in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(
            _norm(width, config, world_size)
            for width in (config.hidden if config.batch_norm else ())
        )
        self.output_parts = (widths[-1], inputs if self.cross is not None else 0)
        self.output = nn.Linear(sum(self.output_parts), 1)
        nn.init.constant_(self.output.bias, float(torch.logit(torch.tensor(INITIAL_CTR))))
        self.product_weight_P = nn.Parameter(torch.ones(products))
        if plain is not None:
            self._start_as(plain)

    @torch.no_grad()
    def _start_as(self, plain: Dense) -> None:
        """Take the weights of ``plain``, which has no history: its inputs are the first ones."""
        own = dict(self.named_parameters())
        for name, parameter in plain.named_parameters():
            if name != "output.weight":
                own[name][tuple(map(slice, parameter.shape))] = parameter
        parts = self.output.weight.split(self.output_parts, 1)
        for part, other in zip(
            parts, plain.output.weight.split(plain.output_parts, 1), strict=True
        ):
            part[:, : other.shape[1]] = other

    def activations(self, tables: list[KeyedTensor], batch: ModelBatch) -> Activations:
        names = [feature.name for feature in self.features]
        others, products = [batch.numeric_BN], []
        padding_BN = batch.numeric_BN.new_zeros(len(batch.numeric_BN), self.padding)
        if self.history is not None:
            history_BK, product_B1 = self.history(batch.history, batch.numeric_BN)
            others, products = [*others, history_BK], [product_B1]
        x_BI, product_BP = dense_inputs(
            tables,
            names,
            torch.cat([*others, padding_BN], 1),
            self._means(batch),
            self.pairs,
            self.dim,
        )
        first_BU = self.layers[0](x_BI) if len(self.layers) else x_BI
        direct_B = torch.cat([product_BP, *products], 1) @ self.product_weight_P
        if self.cross is not None:
            weight_I = self.output.weight[0, -x_BI.shape[1] :]
            direct_B = direct_B + self.cross.logit(x_BI, weight_I)
        return Activations(first_BU, direct_B, batch.domain_B)

    def _means(self, batch: ModelBatch) -> Means:
        """The multi-valued features, whose bags were summed."""
        lengths_FB = batch.kjt.lengths().view(len(self.features), -1)
        return [
            (f, lengths_FB[f].clamp_min(1).reciprocal()[:, None])
            for f, feature in enumerate(self.features)
            if feature.multi
        ]

    def logits(
        self, activations: Activations, *, serving: bool, weight_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B]; ``serving``: BatchNorm by its running statistics, as they stand."""
        hidden_BU = activations.first_BU
        for index, layer in enumerate(self.layers):
            if index:
                hidden_BU = layer(hidden_BU)
            if len(self.norms):
                hidden_BU = self._normalised(index, hidden_BU, activations, serving, weight_B)
            # The first layer without a BatchNorm is needed twice, all else only here.
            own = bool(index) or bool(len(self.norms))
            hidden_BU = functional.relu(hidden_BU, inplace=own)
        weight_1U = self.output.weight[:, : hidden_BU.shape[1]]
        deep_B = functional.linear(hidden_BU, weight_1U, self.output.bias).squeeze(1)
        return deep_B + activations.direct_B

    def _normalised(
        self,
        index: int,
        hidden_BU: torch.Tensor,
        activations: Activations,
        serving: bool,
        weight_B: torch.Tensor | None,
    ) -> torch.Tensor:
        norm = self.norms[index]
        if isinstance(norm, DomainNorms):
            assert activations.domain_B is not None
            weight_B = None if serving else weight_B
            return norm(hidden_BU, activations.domain_B, weight_B, serving=serving)
        assert isinstance(norm, BatchNorm)
        return norm.serve(hidden_BU) if serving else norm(hidden_BU, weight_B)

    def forward(
        self, tables: list[KeyedTensor], batch: ModelBatch
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Loss, and (loss, probabilities [B]) without gradient.

        The probabilities are those that would be served: from running statistics,
        and from before this batch is learnt. When not training there is nothing else.
        """
        activations = self.activations(tables, batch)
        with torch.no_grad():
            served_B = self.logits(activations.detach(), serving=True)
            probability_B = torch.sigmoid(served_B)
        weight_B = batch.weight_B
        if self.training:
            # Other ranks may hold padding when this one has none, so weights always go along.
            lone = self.world_size == 1 and not batch.padded and batch.rows > 1
            real_B = None if lone else batch.real_B
            logit_B = self.logits(activations, serving=False, weight_B=real_B)
        else:
            logit_B = served_B
        loss = _mean_loss(logit_B, batch.label_B, weight_B, self.world_size)
        return loss, (loss.detach(), probability_B)


class TrainTask(nn.Module):
    """Tables and dense part: ``forward(batch) -> (loss, (loss, probability_B))``.

    The form that `TrainPipelineSparseDist` asks for. Tables are looked up once a step.
    """

    def __init__(
        self,
        schema: ImpressionSchema,
        config: ModelConfig,
        device: torch.device,
        world_size: int = 1,
        table_device: torch.device | None = None,
    ) -> None:
        super().__init__()
        specs = table_specs(schema, config)
        self.managed = managed_collection(specs, config, table_device or device)
        self.hashed = hashed_collection(specs, table_device or device)
        self.dense = Dense(schema, config, world_size).to(device)

    def forward(self, batch: ModelBatch) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        tables = []
        if self.managed is not None:
            tables.append(self.managed(batch.kjt)[0])
        if self.hashed is not None:
            tables.append(self.hashed(batch.kjt))
        return self.dense(tables, batch)


def _norm(width: int, config: ModelConfig, world_size: int) -> BatchNorm | DomainNorms:
    if not config.domain:
        return BatchNorm(width, config.batch_norm_momentum, world_size)
    if world_size > 1:
        raise UserError("model.domain: BatchNorms for each domain need one rank")
    return DomainNorms(width, config.batch_norm_momentum, config.domains)


def _mean_loss(
    logit_B: torch.Tensor, label_B: torch.Tensor, weight_B: torch.Tensor, world_size: int
) -> torch.Tensor:
    """This rank's part of the mean log loss over all ranks, times the number of ranks.

    DDP averages dense gradients over ranks and TorchRec divides those of tables by
    their number, so the mean over ranks of this is the weighted mean over impressions.
    """
    total = weight_B.sum()
    if world_size > 1:
        total = total.clone()
        dist.all_reduce(total)
    losses = functional.binary_cross_entropy_with_logits(
        logit_B, label_B, weight_B, reduction="sum"
    )
    return losses * (world_size / total.clamp_min(1.0))


def inner_product_pairs(schema: ImpressionSchema) -> list[tuple[int, int]]:
    """Positions of the features whose inner product is taken.

    The user with the item and with every feature that shares the item's table
    (recent items), and those with the item.
    """
    position = {feature.name: f for f, feature in enumerate(schema.sparse)}
    user, item = position[schema.user], position[schema.item]
    table = schema.sparse[item].table_name
    related = [f for f, x in enumerate(schema.sparse) if x.table_name == table and f != item]
    return [(user, item)] + [(side, f) for f in related for side in (user, item)]


def _without_history(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"history_slots": 0})
