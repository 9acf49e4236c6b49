"""`ecdctr import`: a CSV or Parquet log becomes an impression log."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import click
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import Progress

from config import Config, configured
from errors import UserError
from settings import Loaded
from streaming.import_columns import TIME_UNITS
from streaming.import_mapping import mapping, parse_flags, read_mapping, schema_toml
from streaming.import_reading import chunks, column_names
from streaming.import_rows import Rejected, RowImporter
from streaming.import_sinks import ParquetSink, Sink, TopicSink
from streaming.import_sorting import EventTimeSorter
from streaming.impressions import CLICK, EVENT_TIME
from streaming.kafka_clients import resolve
from streaming.topic_admin import create_topics

MALFORMED = "malformed-line"
"""A line of a CSV with too few or too many values."""


@dataclass
class Summary:
    """What became of a log's rows."""

    imported: int = 0
    clicks: int = 0
    first: int | None = None
    """Earliest event time imported, ms."""
    last: int | None = None
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.RecordBatch) -> None:
        """Count a batch of the sorted log."""
        if not rows.num_rows:
            return
        times = rows.column(EVENT_TIME)
        self.imported += rows.num_rows
        self.clicks += pc.sum(rows.column(CLICK)).as_py()
        self.first = times[0].as_py() if self.first is None else self.first
        self.last = times[-1].as_py()

    def lines(self) -> list[str]:
        if self.first is None or self.last is None:
            return ["nothing imported", *self._rejections()]
        rate = self.clicks / self.imported
        return [
            f"{self.imported:,} impressions, {self.clicks:,} clicks ({rate:.2%}), "
            f"from {_when(self.first)} to {_when(self.last)}",
            *self._rejections(),
        ]

    def _rejections(self) -> list[str]:
        return [f"{count:,} rejected: {reason}" for reason, count in self.rejected.most_common()]


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@click.command("import")
@configured
@click.argument("log", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="New folder for the impression log, its schema and the rows rejected.",
)
@click.option(
    "--to-kafka",
    type=click.Choice(["natural", "ad"]),
    help="Send to this topic; --out then takes the schema and the rows rejected.",
)
@click.option(
    "--domain",
    type=click.Choice(["natural", "ad"]),
    default="ad",
    show_default=True,
    help="What the impressions are: the sub-folder of --out that takes them.",
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=SOURCE[+SOURCE][:KIND]",
    help="Where a column is from, and what: id, categorical, numeric, id[], categorical[].",
)
@click.option(
    "--mapping",
    "mapping_file",
    type=click.Path(path_type=Path),
    help="TOML file with the same as a table [columns]; --map goes over it.",
)
@click.option("--hash", "hashed", multiple=True, metavar="NAME", help="Hash these ids always.")
@click.option(
    "--time-unit",
    type=click.Choice(TIME_UNITS),
    default="auto",
    show_default=True,
    help="Of event times; auto: told from the first ones.",
)
@click.option("--delimiter", default="", help="Of a CSV; default: a comma, for .tsv a tab.")
@click.option("--list-separator", default=" ", help="Between values of a list in a CSV.")
@click.option("--append", is_flag=True, help="Send to a topic that holds records already.")
def command(
    loaded: Loaded[Config],
    log: Path,
    out: Path | None,
    to_kafka: str | None,
    domain: str,
    maps: tuple[str, ...],
    mapping_file: Path | None,
    hashed: tuple[str, ...],
    time_unit: str,
    delimiter: str,
    list_separator: str,
    append: bool,
) -> None:
    """Turn LOG, a CSV or Parquet file or a folder of Parquet files, into an impression log.

    Rows are sorted by event time. Ids that are not numbers become 63-bit hashes,
    the same at every import. Rows that cannot be used are written to rejected.jsonl
    with the reason. schema.toml declares what was imported: give it to a trainer
    as --config.
    """
    if out is None and to_kafka is None:
        raise UserError("where to? --out DIR for Parquet files, or --to-kafka natural|ad")
    wanted = {**(read_mapping(mapping_file) if mapping_file else {}), **parse_flags(maps)}
    names = column_names(log, delimiter)
    columns = mapping(wanted, names, loaded.config.impressions, str(log))
    rows = RowImporter(columns, time_unit, list_separator, _known(hashed, columns.schema.arrow))
    folder = out or loaded.config.run_dir / f"import-{log.stem}"

    def sink(partial: Path) -> Sink:
        if to_kafka is None:
            return ParquetSink(partial / domain)
        config = loaded.config
        kafka, topic = resolve(config.kafka, config.run_dir), getattr(config.topics, to_kafka)
        create_topics(kafka, config.topics)
        return TopicSink(kafka, topic, columns.schema, append=append)

    with _Bar() as progress:
        summary = import_log(log, rows, folder, sink, delimiter, progress)
    for line in summary.lines():
        click.echo(line)
    click.echo(f"schema and rows rejected are in {folder}")


def _known(names: tuple[str, ...], schema: pa.Schema) -> frozenset[str]:
    for name in names:
        if name not in schema.names:
            raise UserError(f"--hash {name}: no such column; there are {', '.join(schema.names)}")
    return frozenset(names)


def import_log(
    log: Path,
    rows: RowImporter,
    folder: Path,
    sink: Callable[[Path], Sink],
    delimiter: str = "",
    progress: Callable[[float], None] = lambda share: None,
) -> Summary:
    """Read, convert, sort, write; ``folder`` appears at the end and whole.

    Args:
        sink: makes the sink, given the folder as long as it is not whole.

    Raises:
        UserError: the log cannot be read, ``folder`` is not empty, or the sink refuses.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: take another --out, or remove it")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "sort").mkdir(parents=True)
        (partial / "schema.toml").write_text(schema_toml(rows.mapping.schema))
        summary = _fill(log, rows, partial, sink(partial), delimiter, progress)
        (partial / "sort").rmdir()
        os.replace(partial, folder)
        return summary
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # of one that failed; a killed one's is there


def _fill(
    log: Path,
    rows: RowImporter,
    partial: Path,
    sink: Sink,
    delimiter: str,
    progress: Callable[[float], None],
) -> Summary:
    summary = Summary()
    sorter = EventTimeSorter(partial / "sort")
    with (partial / "rejected.jsonl").open("wb") as aside:

        def malformed(line: str) -> None:
            summary.rejected[MALFORMED] += 1
            aside.write(_json({"reason": MALFORMED, "line": line}))

        for chunk in chunks(log, rows.mapping.sources, delimiter, progress, malformed):
            good, rejected = rows.convert(chunk)
            sorter.add(good)
            _put_aside(rejected, aside, summary)
    for stretch in sorter.stretches():
        sink.write(stretch)
        summary.add(stretch)
    sink.finish()
    return summary


def _put_aside(rejected: list[Rejected], aside: IO[bytes], summary: Summary) -> None:
    for item in rejected:
        summary.rejected[item.reason.value] += 1
        entry = {"row": item.row, "reason": item.reason.value, "values": item.values}
        aside.write(_json(entry))


def _json(entry: dict[str, Any]) -> bytes:
    return orjson.dumps(entry, default=_text, option=orjson.OPT_APPEND_NEWLINE)


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


class _Bar:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(console=console, disable=not sys.stderr.isatty(), transient=True)
        self._task = self._progress.add_task("reading", total=1.0)

    def __enter__(self) -> Callable[[float], None]:
        self._progress.start()
        return lambda share: self._progress.update(self._task, completed=share)

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
