"""What a variant is: which impressions its ad model learns, and what it is handed down."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from config import Config
from errors import UserError
from settings import flatten, keys, load, unknown_key
from trainers.replay.log import AD, DOMAINS

Overrides = tuple[tuple[str, str], ...]
"""Dotted configuration keys and their values as text."""


@dataclass(frozen=True)
class Variant:
    """One way to predict the ads; all variants predict the same ones.

    ``settings`` go over the configuration, so that what a variant is named for does not
    depend on it.
    """

    name: str
    about: str
    learns: tuple[str, ...] = (AD,)
    by_domain: bool = False
    """The model knows the domain: as a feature, and by BatchNorms for each."""
    history: bool = False
    """TPM's historical embeddings are read, by the ad model and by CPM."""
    transfer: Literal["none", "reinitialize", "delta"] = "none"
    """What becomes of CPM's versions."""
    reset_norms: bool = True
    """With `reinitialize`: BatchNorms start anew."""
    settings: Overrides = ()

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that learn for it."""
        upper = [("tpm", self.history), ("cpm", self.transfer != "none")]
        return (*(name for name, needed in upper if needed), "actr")

    def applied(self, config: Config) -> Config:
        """``config`` as the variant has it.

        Raises:
            UserError: a setting is unknown or does not fit.
        """
        return with_settings(config, self.settings)


def with_settings(config: Config, settings: Overrides) -> Config:
    """``config`` with some values replaced; checked as if they had been given at the start.

    Raises:
        UserError: a key is unknown, or a value does not fit.
    """
    if not settings:
        return config
    given = [f"{key}={value}" for key, value in settings]
    overrides = load(Config, None, {}, given).origins  # refuses unknown keys
    assert set(overrides) == {key for key, _ in settings}
    known = keys(Config)
    tree = config.model_dump(mode="json")
    for key, text in settings:
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch[parent]
        branch[leaf] = _value(known[key].annotation, key, text)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{given[0]}: {reason}") from None


def _value(annotation: Any, key: str, text: str) -> Any:
    try:
        return TypeAdapter(annotation).validate_strings(text)
    except ValidationError as error:
        raise UserError(f"{key}={text}: {error.errors()[0]['msg']}") from None


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("ads-only", "one model on the ads alone"),
        Variant("merged", "one model on all impressions, which does not know the domain", DOMAINS),
        Variant(
            "joint",
            "one model on all impressions, with the domain as a feature and BatchNorms for each",
            DOMAINS,
            by_domain=True,
        ),
    )
}


def chosen(names: Iterable[str], sweep: Iterable[str] = ()) -> tuple[Variant, ...]:
    """The variants of these names, in this order; with a ``sweep``, one for each value.

    Args:
        sweep: ``key=v1,v2``; several give every combination.

    Raises:
        UserError: a variant or a key that does not exist, or no value at all.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in VARIANTS:
            raise UserError(f"no variant '{name}'; there are {', '.join(VARIANTS)}")
        found.append(VARIANTS[name])
    axes = [_axis(item) for item in sweep]
    if not axes:
        return tuple(found)
    return tuple(_swept(v, point) for v in found for point in itertools.product(*axes))


def _axis(item: str) -> list[tuple[str, str]]:
    key, separator, text = item.partition("=")
    values = [value.strip() for value in text.split(",") if value.strip()]
    if not separator or not values:
        raise UserError(f"--sweep {item}: expected key=v1,v2, such as history.periods=1,3")
    known = keys(Config)
    if key not in known:
        raise UserError(unknown_key(key, known, f"--sweep {item}"))
    return [(key, value) for value in values]


def _swept(variant: Variant, point: tuple[tuple[str, str], ...]) -> Variant:
    values = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in point)
    return replace(variant, name=f"{variant.name} {values}", settings=(*variant.settings, *point))


def fingerprint(*parts: Any) -> str:
    """16 hex digits of what decides a result; the same parts give the same ones."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return flatten(value)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
