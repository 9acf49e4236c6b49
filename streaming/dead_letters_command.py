"""`ecdctr dead-letters`: what could not be used, why, and sending it back."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from config import Config, configured
from errors import UserError
from settings import Loaded
from streaming.connection import KafkaConfig
from streaming.dead_letters import Assembly, DeadLetter
from streaming.dead_letters_topic import Resender, letters, still_bad
from streaming.kafka_clients import resolve
from streaming.validation import Reason

_filter = click.option(
    "--reason",
    "reasons",
    type=click.Choice([reason.value for reason in Reason]),
    multiple=True,
    help="Only letters of this reason; may be repeated.",
)


@click.group("dead-letters")
def command() -> None:
    """List, count, export or send back what could not be used."""


@command.command("list")
@configured
@_filter
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N")
@click.option("--all", "everything", is_flag=True, help="Letters that were sent back, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_letters(
    loaded: Loaded[Config], reasons: tuple[str, ...], limit: int, everything: bool, as_json: bool
) -> None:
    """List letters: where each came from and why it is there."""
    found, assembly = _overview(loaded.config, reasons)
    shown = [x for x in found if everything or _identity(x) not in assembly.resent]
    for row in shown[:limit]:
        row["resent"] = _identity(row) in assembly.resent
        if as_json:
            click.echo(json.dumps(row))
    if not as_json:
        _table(shown[:limit])
        if len(shown) > limit:
            click.echo(f"{len(shown) - limit} more; --limit {len(shown)} shows all")
    _warn(assembly)


@command.command("count")
@configured
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def count_letters(loaded: Loaded[Config], as_json: bool) -> None:
    """Count letters and impressions by reason."""
    found, assembly = _overview(loaded.config, ())
    records: Counter[str] = Counter()
    impressions: Counter[str] = Counter()
    resent: Counter[str] = Counter()
    for row in found:
        records[row["reason"]] += 1
        impressions[row["reason"]] += row["count"]
        resent[row["reason"]] += _identity(row) in assembly.resent
    rows = [
        {"reason": r, "letters": n, "impressions": impressions[r], "resent": resent[r]}
        for r, n in records.most_common()
    ]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _table(rows)
    _warn(assembly)


@command.command("export")
@configured
@_filter
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def export(loaded: Loaded[Config], reasons: tuple[str, ...], directory: Path) -> None:
    """Write each letter's bytes (.bin) and origin (.json) to DIRECTORY, to be repaired.

    'ecdctr dead-letters resend --from DIRECTORY' sends the repaired ones back.
    """
    kafka, topic = _place(loaded.config)
    done = _resent(kafka, topic)
    written = 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for letter in letters(kafka, topic, Assembly()):
            if letter.identity not in done and (not reasons or letter.reason in reasons):
                write_letter(directory, letter)
                written += 1
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error}") from None
    click.echo(f"{written} letters written to {directory}")


@command.command("resend")
@configured
@_filter
@click.option(
    "--from",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Take the bytes from files that 'export' wrote and that were repaired since.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
def resend(
    loaded: Loaded[Config], reasons: tuple[str, ...], directory: Path | None, dry_run: bool
) -> None:
    """Send letters back to their topic that can be used now.

    What is still bad under the present configuration stays, with the reason told.
    A letter is sent back once, whatever is killed in between. It is learnt from as
    it then arrives: late, and counted as such.
    """
    kafka, topic = _place(loaded.config)
    sent, refused = 0, 0

    def chosen() -> Iterator[DeadLetter]:
        nonlocal refused
        done = _resent(kafka, topic)
        source = read_letters(directory) if directory else letters(kafka, topic, Assembly())
        for letter in source:
            if letter.identity in done or (reasons and letter.reason not in reasons):
                continue
            why = still_bad(letter, loaded.config.impressions)
            if why:
                refused += 1
                click.echo(f"{origin(letter)} stays: {why}")
            else:
                yield letter

    def report(letter: DeadLetter) -> None:
        nonlocal sent
        sent += 1
        click.echo(f"{origin(letter)} {'would be' if dry_run else 'was'} sent back")

    if dry_run:
        for letter in chosen():
            report(letter)
    else:
        # Fencing and aborting what an earlier one left open come before reading what is done.
        with Resender(kafka, topic) as resender:
            resender.send(chosen(), report)
    click.echo(f"{sent} {'would be ' if dry_run else ''}sent back, {refused} still bad")
    click.echo(_by(loaded, refused))


# -- shared -------------------------------------------------------------------


def _by(loaded: Loaded[Config], refused: int) -> str:
    """Which schema decided, and where another would come from."""
    said = {where for key, where in loaded.origins.items() if key.startswith("impressions.")}
    schema = f"the schema of {' and '.join(sorted(said))}" if said else "the default schema"
    hint = "; --config FILE takes another one's [impressions]" if refused else ""
    return f"judged by {schema}{hint}"


def _place(config: Config) -> tuple[KafkaConfig, str]:
    return resolve(config.kafka, config.run_dir), config.topics.dead_letter


def _resent(kafka: KafkaConfig, topic: str) -> set[Any]:
    """Identities of the letters that were sent back; marks may stand before or after them."""
    assembly = Assembly()
    for _ in letters(kafka, topic, assembly):
        pass
    return assembly.resent


def _overview(config: Config, reasons: tuple[str, ...]) -> tuple[list[dict[str, Any]], Assembly]:
    """One row a letter without its bytes, in source order."""
    kafka, topic = _place(config)
    assembly = Assembly()
    rows = [
        _row(letter)
        for letter in letters(kafka, topic, assembly)
        if not reasons or letter.reason in reasons
    ]
    return sorted(rows, key=_identity), assembly


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "rows": letter.rows,
        "reason": letter.reason.value,
        "count": letter.count,
        "bytes": len(letter.value),
        "detail": letter.detail,
    }


def _identity(row: dict[str, Any]) -> tuple[str, int, int, str, str]:
    return (row["topic"], row["partition"], row["offset"], row["reason"], row["rows"])


def origin(letter: DeadLetter) -> str:
    rows = f" rows {_short(letter.rows)}" if letter.rows else ""
    return f"{letter.topic}/{letter.partition}/{letter.offset}{rows} ({letter.reason})"


def _short(text: str, width: int = 40) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("no dead letters")
        return
    cells = [[_short(str(value)) for value in row.values()] for row in rows]
    heads = list(rows[0])
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for line in [heads, *cells]:
        click.echo("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def _warn(assembly: Assembly) -> None:
    if assembly.incomplete:
        click.echo(f"{assembly.incomplete} letters lack a part and are not shown", err=True)
    if assembly.foreign:
        click.echo(f"{assembly.foreign} records are not dead letters of ours", err=True)


# -- files --------------------------------------------------------------------


def write_letter(directory: Path, letter: DeadLetter) -> Path:
    """Write ``<origin>.bin`` and ``<origin>.json``; returns the former's path."""
    rows = f"-{zlib.crc32(letter.rows.encode()):08x}" if letter.rows else ""
    name = f"{letter.topic}-{letter.partition}-{letter.offset}-{letter.reason}{rows}"
    path = directory / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.bin"
    meta = {
        **_row(letter),
        "key": None if letter.key is None else letter.key.hex(),
        "headers": [[header, content.hex()] for header, content in letter.headers],
    }
    path.write_bytes(letter.value)
    path.with_suffix(".json").write_text(json.dumps(meta, indent=2))
    return path


def read_letters(directory: Path) -> Iterator[DeadLetter]:
    """The letters that :func:`write_letter` wrote, with their bytes as they are now.

    Raises:
        UserError: no such files, or one cannot be read.
    """
    paths = sorted(directory.glob("*.bin"))
    if not paths:
        raise UserError(f"no letters in {directory}: 'ecdctr dead-letters export' writes them")
    for path in paths:
        yield _read_letter(path)


def _read_letter(path: Path) -> DeadLetter:
    try:
        meta = json.loads(path.with_suffix(".json").read_text())
        return DeadLetter(
            topic=meta["topic"],
            partition=meta["partition"],
            offset=meta["offset"],
            rows=meta["rows"],
            reason=Reason(meta["reason"]),
            count=meta["count"],
            value=path.read_bytes(),
            detail=meta["detail"],
            key=None if meta["key"] is None else bytes.fromhex(meta["key"]),
            headers=tuple((name, bytes.fromhex(content)) for name, content in meta["headers"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} and its .json are not an exported letter: {error!r}") from None
