"""What a variant is: which impressions its ad model learns, and what it is handed down."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from config import Config
from errors import UserError
from settings import flatten, keys, parse, unknown_key
from trainers.replay.log import AD, DOMAINS

Overrides = tuple[tuple[str, str], ...]
"""Dotted configuration keys and their values as text."""


@dataclass(frozen=True)
class Variant:
    """One way to predict the ads; all variants predict the same ones.

    ``settings`` go over the configuration, so that what a variant is named for does not
    depend on it: which levels there are, what they read, what is handed down and when.
    """

    name: str
    about: str
    settings: Overrides = ()
    learns: tuple[str, ...] = (AD,)
    """Domains that the ad model learns from."""
    by_domain: bool = False
    """The ad model knows the domain: as a feature, and by BatchNorms for each."""

    def applied(self, config: Config) -> Config:
        """``config`` as the variant has it.

        Raises:
            UserError: a setting is unknown or does not fit.
        """
        return with_settings(config, (*_rates(config, self.name), *self.settings))


def _rates(config: Config, name: str) -> Overrides:
    """A-CTR's learning rates of the variant ``name``, which may be one of a sweep."""
    for other in config.replay.rates:
        if other not in VARIANTS:
            raise UserError(f"replay.rates.{other}: no such variant; there are {_names()}")
    own = config.replay.rates.get(name.split(" ")[0])
    given = {} if own is None else own.model_dump(exclude_unset=True)
    return tuple((f"actr.optimizer.{rate}", str(value)) for rate, value in given.items())


def _names() -> str:
    return ", ".join(VARIANTS)


def levels(config: Config) -> tuple[str, ...]:
    """The levels that learn with ``config``, from the top."""
    cpm = config.actr.transfer != "none"
    tpm = config.actr.history or (cpm and config.cpm.history)
    return (*("tpm",) * tpm, *("cpm",) * cpm, "actr")


def with_settings(config: Config, settings: Overrides) -> Config:
    """``config`` with some values replaced; checked as if they had been given at the start.

    What CPM has from A-CTR it has from the new values.

    Raises:
        UserError: a key is unknown, or a value does not fit.
    """
    tree = config.model_dump(mode="json", exclude_unset=True)
    given = dict(settings)
    twins = {f"cpm.{key.removeprefix('actr.')}": v for key, v in settings if _shared(key)}
    for key, text in (twins | given).items():
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = parse(Config, key, text, f"{key}={text}")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{', '.join(f'{k}={v}' for k, v in settings)}: {reason}") from None


def _shared(key: str) -> bool:
    """Whether CPM has the value from A-CTR."""
    return key in ("actr.seed", "actr.history") or key.startswith("actr.model.")


ALONE: Overrides = (("actr.transfer", "none"), ("actr.history", "false"))
MONTHLY: Overrides = (
    ("actr.history", "true"),
    ("history.period_hours", "720"),
    ("history.periods", "3"),
    ("history.aggregation", "mean"),
)
WEEKLY: Overrides = (("actr.history", "true"), ("history.period_hours", "168"))
NEWEST: Overrides = (*WEEKLY, ("history.periods", "1"), ("history.aggregation", "mean"))
FROM_SCRATCH: Overrides = (
    ("actr.transfer", "reinitialize"),
    ("actr.transfer_resets_batch_norm", "true"),
    ("cpm.mode", "scratch"),
    ("cpm.window_hours", "168"),
)
CHANGES: Overrides = (
    ("actr.transfer", "delta"),
    ("cpm.mode", "continuous"),
    ("cpm.hand_down_hours", "6"),
)


def _of_three(aggregation: str) -> Overrides:
    return (*CHANGES, *WEEKLY, ("history.periods", "3"), ("history.aggregation", aggregation))


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("ads-only", "one model on the ads alone", ALONE),
        Variant("merged", "one model on all impressions, domain unknown", ALONE, DOMAINS),
        Variant("joint", "one model on all, domain known, BatchNorms by it", ALONE, DOMAINS, True),
        Variant(
            "fine-tune", "CPM every week, no history", (*FROM_SCRATCH, ("actr.history", "false"))
        ),
        Variant(
            "history-only",
            "TPM's history every month, no CPM",
            (*MONTHLY, ("actr.transfer", "none")),
        ),
        Variant(
            "no-bn-reset",
            "as published, BatchNorms kept",
            (*FROM_SCRATCH, *MONTHLY, ("actr.transfer_resets_batch_norm", "false")),
        ),
        Variant("published", "history every month, CPM every week", (*FROM_SCRATCH, *MONTHLY)),
        Variant(
            "full", "CPM's changes every six hours, the newest week's history", (*CHANGES, *NEWEST)
        ),
        Variant("full-mean", "as full, the mean of three weeks", _of_three("mean")),
        Variant("full-recency", "as full, three weeks by recency", _of_three("recency")),
        Variant("full-attention", "as full, attention over three weeks", _of_three("attention")),
    )
}
"""By name; `full` is our best of those tried (docs/comparison.md)."""


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
            raise UserError(f"no variant '{name}'; there are {_names()}")
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
