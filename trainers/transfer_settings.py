"""Settings of CPM and of what A-CTR takes over from it (no torch is imported here)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from settings import Section, flatten
from trainers.settings import LevelConfig

_INHERITED = ("seed", "history")
_HOUR_MS = 3_600_000


class CpmConfig(LevelConfig):
    """`model`, `seed` and `history` are A-CTR's unless given here."""

    mode: Literal["continuous", "weekly", "scratch"] = "continuous"
    """How it learns: `continuous`: as impressions arrive, handing down every `hand_down_hours`;
    `weekly`: onwards, handing down at the end of every window; `scratch`: every window from a
    fresh model, as published."""
    hand_down_hours: float = Field(24.0, gt=0, le=87_600)
    """Event time between two hand-downs of `continuous`, hours."""
    window_hours: float = Field(168.0, gt=0, le=87_600)
    """Length of a window of `weekly` and `scratch`, event time, hours."""
    keep_hand_downs: int = Field(168, ge=1)
    """Hand-downs kept on disk for an A-CTR that is behind."""

    @property
    def cadence_ms(self) -> int:
        """Event time between two hand-downs, ms."""
        hours = self.hand_down_hours if self.mode == "continuous" else self.window_hours
        return max(1, round(hours * _HOUR_MS))


class ActrConfig(LevelConfig):
    transfer: Literal["none", "delta", "reinitialize"] = "none"
    """What A-CTR takes over from CPM: nothing, what CPM changed since the last hand-down, or,
    as published, the whole model, from which it starts over."""
    transfer_scale: float = Field(1.0, gt=0, le=10)
    """Factor on what CPM changed (`delta`)."""
    transfer_resets_batch_norm: bool = True
    """Begin BatchNorm anew with every whole model (`reinitialize`)."""
    transfer_relearns: bool = True
    """Learn the ads of CPM's last window again after every whole model (`reinitialize`)."""
    transfer_beside: Literal["auto", "always", "never"] = "auto"
    """Learn them in a successor, while the A-CTR that is there goes on predicting, until the
    successor has caught up and takes over: two models are in memory meanwhile. `never`: the
    stream waits; so it does with `auto` where `align` is on, as in a replay, and on several
    ranks in any case."""
    catch_up_batches: int = Field(4, ge=2, le=1_000)
    """Batches that a successor learns before each live one."""
    transfer_waiting: float = Field(1.0, ge=0, le=100)
    """Most changes kept for ids without a row, as a share of the table's rows (`delta`)."""

    @property
    def beside(self) -> bool:
        """Whether a successor is to learn the last window, on one rank."""
        if self.transfer != "reinitialize" or not self.transfer_relearns:
            return False
        return self.transfer_beside == "always" or (
            self.transfer_beside == "auto" and not self.align
        )


def inherit(values: Any) -> Any:
    """The whole configuration's raw ``values``, with what CPM has from A-CTR filled in."""
    if not isinstance(values, dict):
        return values
    actr, cpm = _plain(values.get("actr")), _plain(values.get("cpm"))
    inherited = {name: actr[name] for name in _INHERITED if name in actr}
    model = _over(_plain(actr.get("model")), _plain(cpm.get("model")))
    return values | {"cpm": inherited | cpm | {"model": model}}


def _plain(value: Any) -> Any:
    """What was set of a section, as a dictionary; what is no section is for others to refuse."""
    if value is None:
        return {}
    return value.model_dump(exclude_unset=True) if isinstance(value, Section) else value


def _over(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def require_alike(cpm: CpmConfig, actr: ActrConfig) -> None:
    """Raise ValueError where CPM's model is not A-CTR's; only deltas match ids by id."""
    ours, theirs = (flatten(level.model.model_dump()) for level in (actr, cpm))
    for key in sorted(ours.keys() | theirs.keys()):
        by_id = actr.transfer != "reinitialize" and key.rsplit(".", 1)[-1] == "rows"
        if ours.get(key) != theirs.get(key) and not by_id:
            raise ValueError(
                f"cpm.model.{key} = {theirs.get(key)} is not A-CTR's {ours.get(key)}: "
                "CPM's model is handed down to A-CTR"
            )
    if actr.transfer == "delta" and cpm.mode == "scratch":
        raise ValueError(
            "actr.transfer = delta needs a CPM that learns onwards (cpm.mode = continuous or "
            "weekly); from scratch it hands down whole models (actr.transfer = reinitialize)"
        )
    if actr.transfer == "delta" and cpm.seed != actr.seed:
        raise ValueError(
            f"cpm.seed = {cpm.seed} is not A-CTR's {actr.seed}: changes add up only on weights "
            "that began alike"
        )
