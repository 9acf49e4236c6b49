"""TPM's own defaults: a level like the others, with a tiny model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainers.settings import LevelConfig, ModelConfig


class TinyModelConfig(ModelConfig):
    cross_layers: int = Field(0, ge=0, le=100)
    """DCNv2 cross layers (low rank); the inner product of user and item is always there."""
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (32,)
    """Widths of the MLP's hidden layers."""


class TpmConfig(LevelConfig):
    model: TinyModelConfig = TinyModelConfig()
    history: Literal[False] = False
    """Historical embeddings are made of TPM's own vectors; it does not read them."""
