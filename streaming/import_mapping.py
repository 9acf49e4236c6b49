"""Which column of a log becomes which column of an impression, and the schema that follows.

A column is written as ``NAME=SOURCE[+SOURCE...][:KIND]``: where it comes from (several
sources are joined into one id) and what it is (``id``, ``categorical``, ``numeric``,
or ``id[]``, ``categorical[]`` for lists).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from errors import UserError
from streaming.impressions import (
    CLICK,
    EVENT_TIME,
    IMPRESSION_ID,
    REQUIRED,
    Feature,
    ImpressionSchema,
)

KINDS = ("id", "categorical", "numeric", "id[]", "categorical[]")
USER, ITEM = "user_id", "item_id"


@dataclass(frozen=True)
class Column:
    name: str
    sources: tuple[str, ...]
    kind: str
    """One of KINDS, or the column's own name for `impression_id`, `event_time`, `click`."""


@dataclass(frozen=True)
class LogMapping:
    columns: tuple[Column, ...]
    schema: ImpressionSchema

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source once, in order of first use."""
        return tuple(dict.fromkeys(s for column in self.columns for s in column.sources))


def read_mapping(path: Path) -> dict[str, str]:
    """A TOML file of one table, ``[columns]``: name = "SOURCE[+SOURCE...][:KIND]".

    Raises:
        UserError: not such a file.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable TOML file: {error}") from None
    columns = tree.pop("columns", None)
    if tree or not isinstance(columns, dict):
        raise UserError(f"{path}: expected one table [columns]; found {', '.join(tree) or 'none'}")
    for name, source in columns.items():
        if not isinstance(source, str):
            raise UserError(f'{path}: {name} = {source!r} is not "SOURCE[:KIND]"')
    return columns


def parse_flags(flags: Iterable[str]) -> dict[str, str]:
    """``name=source`` items; a bare ``name`` is its own source."""
    return {flag.partition("=")[0]: flag.partition("=")[2] or flag for flag in flags}


def mapping(
    wanted: Mapping[str, str], available: Sequence[str], believed: ImpressionSchema, log: str
) -> LogMapping:
    """Complete and check a mapping against the log's columns.

    What must be there and is not mapped is taken from the column of its own name;
    without an impression id, rows are numbered.

    Args:
        wanted: name to "SOURCE[+SOURCE...][:KIND]".
        available: the log's columns.
        believed: whose limits of event time hold, and whose features' kinds are the default.
        log: what to call the log in messages.

    Raises:
        UserError: a source that the log lacks (with the nearest it has), or a bad kind.
    """
    complete = {name: name for name in (EVENT_TIME, CLICK, USER, ITEM)} | dict(wanted)
    if IMPRESSION_ID in available:
        complete.setdefault(IMPRESSION_ID, IMPRESSION_ID)
    columns = [_column(name, text, believed) for name, text in complete.items()]
    for column in columns:
        for source in column.sources:
            if source not in available:
                raise UserError(_missing(column.name, source, available, log))
    order = [*REQUIRED, USER, ITEM]
    columns.sort(key=lambda c: order.index(c.name) if c.name in order else len(order))
    return LogMapping(tuple(columns), _schema(columns, believed))


def _missing(name: str, source: str, available: Sequence[str], log: str) -> str:
    near = difflib.get_close_matches(source, available, n=1, cutoff=0.4)
    shown = ", ".join(available[:12]) + (", ..." if len(available) > 12 else "")
    hint = f"did you mean --map {name}={near[0]}?" if near else f"it has {shown}"
    return f"{log} has no column '{source}' for {name}; {hint}"


def _column(name: str, text: str, believed: ImpressionSchema) -> Column:
    source, colon, kind = text.rpartition(":")
    if not colon or (kind not in KINDS and " " in kind):
        source, kind = text, ""
    if name in REQUIRED:
        if kind:
            raise UserError(f"--map {name}={text}: {name} takes no kind")
        kind = name
    elif kind and kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(KINDS)}"
        raise UserError(f"--map {name}={text}: unknown kind '{kind}'; {hint}")
    kind = kind or _default_kind(name, believed)
    sources = tuple(source.split("+"))
    if len(sources) > 1 and kind not in ("id", "categorical"):
        raise UserError(f"--map {name}={text}: only an id or a category is joined from several")
    return Column(name, sources, kind)


def _default_kind(name: str, believed: ImpressionSchema) -> str:
    for feature in believed.features:
        if feature.name == name:
            return feature.kind + ("[]" if feature.multi else "")
    return "id" if name in (USER, ITEM) else "categorical"


def _schema(columns: Iterable[Column], believed: ImpressionSchema) -> ImpressionSchema:
    """The schema of what is imported: only user and item are in every row of most logs."""
    shared = {f.name: f for f in believed.features}
    try:
        features = tuple(
            Feature.model_validate(
                {
                    "name": c.name,
                    "kind": c.kind.removesuffix("[]"),
                    "multi": c.kind.endswith("[]"),
                    "table": shared[c.name].table if c.name in shared else "",
                    "basic": c.name in (USER, ITEM),
                    "optional": c.name not in (USER, ITEM),
                }
            )
            for c in columns
            if c.name not in REQUIRED
        )
        return ImpressionSchema(
            features=features,
            user=USER,
            item=ITEM,
            min_event_time=believed.min_event_time,
            max_event_time=believed.max_event_time,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = first["input"] if isinstance(first["input"], str) else "--map"
        raise UserError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None


def schema_toml(schema: ImpressionSchema) -> str:
    """The `[impressions]` section that ``--config`` takes, with what differs from the defaults."""
    lines = ["[impressions]"]
    lines += [f"{key} = {_toml(value)}" for key, value in _set(schema) if key != "features"]
    for feature in schema.features:
        lines += ["", "[[impressions.features]]"]
        lines += [f"{key} = {_toml(value)}" for key, value in _set(feature)]
    return "\n".join(lines) + "\n"


def _set(section: Feature | ImpressionSchema) -> list[tuple[str, Any]]:
    return list(section.model_dump(exclude_defaults=True).items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
