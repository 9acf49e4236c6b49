"""Small recorded logs, and configurations that learn them in seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from config import Config
from streaming.market import Market
from streaming.market_config import MarketConfig
from streaming.market_files import write_slots

MARKET = MarketConfig(
    seed=3,
    days=8,
    users=60,
    items=40,
    advertised=20,
    natural_per_day=600,
    ads_per_day=150,
    ad_ctr=0.15,
    natural_ctr=0.2,
    season_days=4,
)
TABLES = {"hidden": [16], "eviction_interval": 4, "ids": {"rows": 256}}


class Silent:
    """Looks on at a replay, and remembers."""

    def __init__(self) -> None:
        self.advanced = 0
        self.known: list[tuple[str, bool]] = []

    def began(self, what: str, impressions: int) -> Callable[[int], None]:
        def advance(count: int) -> None:
            self.advanced += count

        return advance

    def ended(self, what: str, known: bool) -> None:
        self.known.append((what, known))


def small_log(path: Path) -> Path:
    """A market of eight days as Parquet, with its truth."""
    for _ in write_slots(Market(MARKET), path):
        pass
    return path


def small_config(**replay: object) -> Config:
    level = {"batch_size": 64, "device": "cpu", "threads": 1}
    return Config.model_validate(
        {
            "actr": level | {"model": TABLES},
            "cpm": level | {"batch_size": 128},
            "tpm": level | {"batch_size": 128, "model": TABLES},
            "history": {"period_hours": 48, "buckets": 2},
            "replay": {"periods": 4, "windows": 4} | replay,
        }
    )


def with_other_clicks(log: Path, copy: Path, after: int) -> Path:
    """``log`` with every click after event time ``after``, ms, turned round."""
    shutil.copytree(log, copy)
    for path in copy.glob("*/*.parquet"):
        table = pq.read_table(path)
        click = table.column("click").to_numpy()
        late = table.column("event_time").to_numpy() > after
        turned = pa.array(np.where(late, 1 - click, click).astype(np.int8))
        place = table.column_names.index("click")
        pq.write_table(table.set_column(place, table.schema.field("click"), turned), path)
    return copy
