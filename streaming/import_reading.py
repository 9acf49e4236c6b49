"""A CSV or Parquet log in chunks of bounded size, every value of a CSV as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from errors import UserError

CHUNK_ROWS = 65_536
_BLOCK_BYTES = 16 << 20
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}

Progress = Callable[[float], None]
"""Called with the share of the log that was read, 0 to 1."""
Malformed = Callable[[str], None]
"""Called with a line that has another number of columns than the head."""


def is_parquet(path: Path) -> bool:
    if path.is_dir() or path.suffix.lower() in (".parquet", ".pq"):
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def column_names(path: Path, delimiter: str) -> list[str]:
    """The log's columns.

    Raises:
        UserError: no such file, or it cannot be read as what it seems to be.
    """
    try:
        if is_parquet(path):
            return list(pq.read_schema(_files(path)[0]).names)
        return list(_open_csv(path, delimiter, [], lambda line: None)[0].schema.names)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def chunks(
    path: Path, sources: Sequence[str], delimiter: str, progress: Progress, malformed: Malformed
) -> Iterator[pa.RecordBatch]:
    """The columns ``sources`` of the log, at most about CHUNK_ROWS rows at a time.

    Raises:
        UserError: the log cannot be read on.
    """
    read = _parquet_chunks if is_parquet(path) else _csv_chunks
    try:
        yield from read(path, sources, delimiter, progress, malformed)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}")


def _files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"no .parquet files under {path}")
    return files


def _parquet_chunks(
    path: Path, sources: Sequence[str], delimiter: str, progress: Progress, malformed: Malformed
) -> Iterator[pa.RecordBatch]:
    files = _files(path)
    for i, file in enumerate(files):
        with pq.ParquetFile(file) as parquet:
            missing = [name for name in sources if name not in parquet.schema_arrow.names]
            if missing:
                raise UserError(f"{file} has no column '{missing[0]}', which other files have")
            done, total = 0, max(parquet.metadata.num_rows, 1)
            for batch in parquet.iter_batches(CHUNK_ROWS, columns=list(sources)):
                yield batch.select(list(sources))
                done += batch.num_rows
                progress((i + done / total) / len(files))


def _csv_chunks(
    path: Path, sources: Sequence[str], delimiter: str, progress: Progress, malformed: Malformed
) -> Iterator[pa.RecordBatch]:
    reader, raw = _open_csv(path, delimiter, sources, malformed)
    size = max(path.stat().st_size, 1)
    for batch in reader:
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            yield batch.slice(start, CHUNK_ROWS)
        progress(min(raw.tell() / size, 1.0))


def _open_csv(
    path: Path, delimiter: str, sources: Sequence[str], malformed: Malformed
) -> tuple[pa.csv.CSVStreamingReader, pa.NativeFile]:
    raw = pa.OSFile(str(path))
    codec = _COMPRESSED.get(path.suffix.lower())
    stream = pa.CompressedInputStream(raw, codec) if codec else raw

    def skip(row: pa.csv.InvalidRow) -> str:
        malformed(row.text)
        return "skip"

    reader = pa.csv.open_csv(
        stream,
        # One thread: rows are then met, and counted, in order.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(
            delimiter=delimiter or ("\t" if ".tsv" in path.suffixes else ","),
            newlines_in_values=True,
            invalid_row_handler=skip,
        ),
        # Bytes: types are ours to find, and no value can stop the reader.
        convert_options=pa.csv.ConvertOptions(
            include_columns=list(sources),
            column_types={name: pa.binary() for name in sources},
            strings_can_be_null=True,
        ),
    )
    return reader, raw
