"""The whole configuration, put together from the sections beside their owners."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pydantic import model_validator

from embeddings.history_settings import HistoryConfig
from monitoring.drift.settings import DriftConfig
from monitoring.monitor_settings import MonitorConfig
from monitoring.settings import MonitoringConfig
from settings import Loaded, Section, load
from streaming.connection import KafkaConfig
from streaming.impressions import ImpressionSchema
from streaming.market_config import MarketConfig
from streaming.reader_config import ReaderConfig
from streaming.topics import TopicsConfig
from trainers.replay.settings import ReplayConfig
from trainers.settings import LevelConfig
from trainers.tpm_settings import TpmConfig
from trainers.transfer_settings import ActrConfig, CpmConfig, inherit, require_alike


class Config(Section):
    run_dir: Path = Path("run")
    """Where processes keep checkpoints, logs, the embedded Kafka's data and their addresses."""
    kafka: KafkaConfig = KafkaConfig()
    topics: TopicsConfig = TopicsConfig()
    impressions: ImpressionSchema = ImpressionSchema()
    reader: ReaderConfig = ReaderConfig()
    market: MarketConfig = MarketConfig()
    tpm: TpmConfig = TpmConfig()
    actr: ActrConfig = ActrConfig()
    cpm: CpmConfig = CpmConfig()
    history: HistoryConfig = HistoryConfig()
    replay: ReplayConfig = ReplayConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    monitor: MonitorConfig = MonitorConfig()
    drift: DriftConfig = DriftConfig()

    @model_validator(mode="before")
    @classmethod
    def _cpm_is_as_actr(cls, values: Any) -> Any:
        return inherit(values)

    @model_validator(mode="after")
    def _tables_exist(self) -> Config:
        _require_tables("actr", self.actr, self.impressions)
        _require_tables("cpm", self.cpm, self.impressions)
        require_alike(self.cpm, self.actr)
        _require_tables("tpm", self.tpm, self.impressions.basics())
        return self

    @model_validator(mode="after")
    def _entities_have_rows(self) -> Config:
        for table in self.impressions.entity_tables:
            model = self.tpm.model
            if model.tables.get(table, model.ids).vocabulary != "managed":
                raise ValueError(
                    f"tpm.model: table '{table}' must be managed: TPM publishes a vector of each "
                    "user and item, and in a hashed table several share one"
                )
        return self


def _require_tables(level: str, config: LevelConfig, schema: ImpressionSchema) -> None:
    """Exceptions must name tables that the level's features have."""
    tables = {feature.table_name for feature in schema.sparse}
    for name in config.model.tables:
        if name not in tables:
            raise ValueError(
                f"{level}.model.tables.{name}: no feature has that table; "
                f"there are {', '.join(sorted(tables))}"
            )


def configured(
    function: Callable[..., Any] | None = None, *, default: Path | None = None
) -> Callable[..., Any]:
    """Give a click command `--config`, `--run-dir`, `--bootstrap-servers` and `--set`.

    The command receives one :class:`settings.Loaded` as its first argument. Without
    `--config` the file ``default`` is read, if there is one.
    """
    if function is None:
        return functools.partial(configured, default=default)

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        envvar="ECDCTR_CONFIG",
        default=default,
        help="TOML file to read first.",
    )
    @click.option("--run-dir", metavar="DIR", help="Same as --set run_dir=DIR.")
    @click.option(
        "--bootstrap-servers",
        metavar="HOST:PORT",
        help="Use this Kafka cluster. Same as --set kafka.bootstrap_servers=...",
    )
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set one value, such as actr.batch_size=4096; may be repeated.",
    )
    @functools.wraps(function)
    def wrapper(
        config_path: Path | None,
        run_dir: str | None,
        bootstrap_servers: str | None,
        overrides: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        flags = list(overrides)
        if run_dir is not None:
            flags.append(f"run_dir={run_dir}")
        if bootstrap_servers is not None:
            flags.append(f"kafka.bootstrap_servers={bootstrap_servers}")
        loaded: Loaded[Config] = load(Config, config_path, None, flags)
        again = [f"--config={config_path}"] if config_path is not None else []
        again += [f"--set={flag}" for flag in flags]
        return function(replace(loaded, arguments=tuple(again)), **kwargs)

    return wrapper
