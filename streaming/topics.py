"""Names and shapes of the topics."""

from __future__ import annotations

from pydantic import Field, model_validator

from settings import Section


class TopicsConfig(Section):
    natural: str = "impressions.natural"
    """Natural impressions."""
    ad: str = "impressions.ad"
    """Ad impressions."""
    dead_letter: str = "impressions.dead-letter"
    """Records and rows that could not be used."""
    snapshots: str = "tpm.snapshots"
    """TPM's vectors at the end of every period."""
    historical: str = "embeddings.historical"
    """The last periods' vectors of every user and item (compacted)."""
    predictions: str = "predictions"
    """Prefix of the prediction topics: `predictions.<level>`."""
    models: str = "models"
    """Prefix of the model topics: `models.<level>` (compacted)."""
    control: str = "control"
    """What the monitor asks of trainers: an early period or hand-down."""
    partitions: int = Field(4, ge=1)
    """Partitions of a topic created by us."""
    replication: int = Field(1, ge=1)
    """Replicas of a topic created by us."""
    retention_hours: int = Field(168, ge=1)
    """How long impressions, predictions, dead letters and requests are kept, hours."""

    @model_validator(mode="after")
    def _distinct(self) -> TopicsConfig:
        names = (
            *("natural", "ad", "dead_letter", "snapshots", "historical", "control"),
            *("predictions", "models"),
        )
        seen: dict[str, str] = {}
        for name in names:
            topic = getattr(self, name)
            if topic in seen:
                raise ValueError(f"topics.{seen[topic]} and topics.{name} are both '{topic}'")
            seen[topic] = name
        return self

    def predictions_of(self, level: str) -> str:
        return f"{self.predictions}.{level}"

    def models_of(self, level: str) -> str:
        return f"{self.models}.{level}"
