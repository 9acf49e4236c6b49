"""The levels that can be trained: one loop, told apart by topic and configuration."""

from __future__ import annotations

from dataclasses import dataclass

from config import Config
from trainers.settings import LevelConfig


@dataclass(frozen=True)
class Level:
    name: str
    topic: str  # the impressions that it learns from
    predictions: str  # topic of what it predicted
    models: str  # topic that announces its checkpoints
    config: LevelConfig


NAMES = ("actr",)


def level(name: str, config: Config) -> Level:
    topics = config.topics
    sources = {"actr": topics.ad}
    settings = {"actr": config.actr}
    return Level(
        name=name,
        topic=sources[name],
        predictions=topics.predictions_of(name),
        models=topics.models_of(name),
        config=settings[name],
    )
