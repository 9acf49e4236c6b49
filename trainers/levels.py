"""The levels that can be trained: one loop, told apart by topic and configuration."""

from __future__ import annotations

from dataclasses import dataclass

from config import Config
from streaming.impressions import ImpressionSchema
from trainers.settings import LevelConfig


@dataclass(frozen=True)
class Level:
    name: str
    topic: str  # the impressions that it learns from
    predictions: str  # topic of what it predicted
    models: str  # topic that announces its checkpoints
    config: LevelConfig
    schema: ImpressionSchema  # what its model reads of them
    snapshots: str = ""  # topic of its vectors at the end of every period; none: it has no periods


NAMES = ("tpm", "cpm", "actr")


def level(name: str, config: Config) -> Level:
    topics = config.topics
    sources = {"tpm": topics.natural, "cpm": topics.natural, "actr": topics.ad}
    settings: dict[str, LevelConfig] = {
        "tpm": config.tpm,
        "cpm": config.cpm,
        "actr": config.actr,
    }
    schemas = {"tpm": config.impressions.basics()}
    return Level(
        name=name,
        topic=sources[name],
        predictions=topics.predictions_of(name),
        models=topics.models_of(name),
        config=_with_history(settings[name], config),
        schema=schemas.get(name, config.impressions),
        snapshots=topics.snapshots if name == "tpm" else "",
    )


def _with_history(settings: LevelConfig, config: Config) -> LevelConfig:
    """The level's model with room for the historical embeddings, when it reads them."""
    if not settings.history:
        return settings
    room = {
        "history_slots": config.history.slots,
        "history_dim": config.tpm.model.dim,
        "history_aggregation": "mean" if config.history.aggregated else "attention",
    }
    return settings.model_copy(update={"model": settings.model.model_copy(update=room)})
