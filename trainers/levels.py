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


NAMES = ("tpm", "actr")


def level(name: str, config: Config) -> Level:
    topics = config.topics
    sources = {"tpm": topics.natural, "actr": topics.ad}
    settings: dict[str, LevelConfig] = {"tpm": config.tpm, "actr": config.actr}
    schemas = {"tpm": config.impressions.basics()}
    return Level(
        name=name,
        topic=sources[name],
        predictions=topics.predictions_of(name),
        models=topics.models_of(name),
        config=settings[name],
        schema=schemas.get(name, config.impressions),
        snapshots=topics.snapshots if name == "tpm" else "",
    )
