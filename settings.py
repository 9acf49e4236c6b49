"""Layered configuration: TOML file, then environment, then flags, each over the last.

A section of the configuration is a :class:`Section` that lives beside the code
it configures. This module knows nothing of any section's content.
"""

from __future__ import annotations

import difflib
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from errors import UserError

ENV_PREFIX = "ECDCTR_"
NOT_SETTINGS = {"ECDCTR_CONFIG", "ECDCTR_CACHE_DIR", "ECDCTR_SUPERVISED"}
"""Variables with the prefix that are read elsewhere."""


class Section(BaseModel):
    """Base of every configuration model: frozen, documented, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )


S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Loaded(typing.Generic[S]):
    """A validated configuration and, for every dotted key that was set, who set it."""

    config: S
    origins: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    """Command-line options that give another process of ours the same configuration."""

    def origin(self, key: str) -> str:
        return self.origins.get(key, "default")


def load(
    model: type[S],
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
) -> Loaded[S]:
    """Read ``path``, lay the environment and then ``key=value`` overrides over it.

    Environment variables are ``ECDCTR_`` and the dotted key in capitals with
    ``__`` for every dot: ``ECDCTR_ACTR__BATCH_SIZE=4096``.

    Raises:
        UserError: a file that cannot be read, an unknown key (with the nearest
            valid one), or a value that does not fit its key.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        _overlay(values, origins, model, flatten(_read_toml(path)), str(path))
    env = os.environ if environ is None else environ
    for name in sorted(env):
        if name.startswith(ENV_PREFIX) and name not in NOT_SETTINGS:
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            value = parse(model, key, env[name], f"${name}")
            _overlay(values, origins, model, {key: value}, f"${name}")
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise UserError(f"--set {item}: expected key=value, such as actr.batch_size=4096")
        key = key.strip()
        value = parse(model, key, text, f"--set {key}")
        _overlay(values, origins, model, {key: value}, f"--set {key}")
    return Loaded(_build(model, values, origins), origins)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no configuration file at {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} is not a readable TOML file: {error}") from None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``; lists and empty tables stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _sections(annotation: Any) -> list[type[Section]]:
    """The Section classes that a field's annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [s for part in typing.get_args(annotation) for s in _sections(part)]
    return []


def keys(model: type[Section], prefix: str = "") -> dict[str, Any]:
    """Every dotted key of ``model`` with its field, depth first, in declared order."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        nested = _sections(field.annotation)
        if nested:
            for section in nested:
                found.update(keys(section, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = field
    return found


def _owner(known: Mapping[str, Any], key: str) -> str | None:
    """The declared key that ``key`` is, or that it lies inside (a table of tables)."""
    if key in known:
        return key
    for candidate in known:
        mapping = typing.get_origin(known[candidate].annotation) in (dict, Mapping)
        if mapping and key.startswith(f"{candidate}."):
            return candidate
    return None


def parse(model: type[Section], key: str, text: str, where: str) -> Any:
    """A value from text: TOML where it reads as TOML, else the text itself."""
    known = keys(model)
    owner = _owner(known, key)
    if owner is None:
        raise UserError(unknown_key(key, known, where))
    if owner == key:
        adapter = TypeAdapter(known[key].annotation)
        try:
            return adapter.validate_strings(text)
        except (ValidationError, ValueError):
            pass
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def unknown_key(key: str, known: Iterable[str], where: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if not near:
        leaf = key.rsplit(".", 1)[-1]
        near = [n for n in names if n.rsplit(".", 1)[-1] == leaf][:1]
    hint = f"did you mean {near[0]}?" if near else "'ecdctr config' lists the valid keys"
    return f"{where}: unknown key '{key}'; {hint}"


def _overlay(
    values: dict[str, Any],
    origins: dict[str, str],
    model: type[Section],
    flat: Mapping[str, Any],
    where: str,
) -> None:
    known = keys(model)
    for key, value in flat.items():
        if _owner(known, key) is None and not (value == {} and _is_section(known, key)):
            raise UserError(unknown_key(key, known, where))
        branch = values
        *parents, leaf = key.split(".")
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
        origins[key] = where


def _is_section(known: Iterable[str], key: str) -> bool:
    return any(name.startswith(f"{key}.") for name in known)


def _build(model: type[S], values: dict[str, Any], origins: Mapping[str, str]) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        origin = next((origins[k] for k in origins if k == key or key.startswith(f"{k}.")), None)
        where = f"{origin}: " if origin else ""
        # A check across fields belongs to no single key and brings its own words.
        got = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise UserError(f"{where}{key}: {message}{got}") from None
