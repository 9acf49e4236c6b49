"""Configuration of metrics and the live view."""

from __future__ import annotations

from pydantic import Field

from settings import Section


class MonitoringConfig(Section):
    host: str = "127.0.0.1"
    """Address that `/metrics` and `/healthz` listen on; `0.0.0.0` for all."""
    port: int = Field(0, ge=0, le=65_535)
    """Port; 0: a free one, which `ecdctr status` finds in the run directory."""
    stalled_seconds: float = Field(60.0, gt=0)
    """`/healthz` answers 503 after this long without progress, seconds."""
    series_step_seconds: float = Field(24 * 3600.0, gt=0)
    """Event time between two points of the live view's GAUC chart, seconds."""
    series_window_seconds: float = Field(72 * 3600.0, gt=0)
    """Event time that a point of that chart looks back over, seconds."""
