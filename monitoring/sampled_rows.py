"""Predictions held by step of event time, bounded by keeping fewer users. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from embeddings.ids import spread
from monitoring.columns import Columns, StepRows

_BITS = 63  # of what `spread` gives
MOST_HALVINGS = 40
_SALT = np.int64(0x2545F4914F6CDD1D)


@dataclass(frozen=True)
class Predicted(Columns):
    """n predicted impressions of one level."""

    user: NDArray[np.int64]  # [n]
    click: NDArray[np.int8]  # [n] 0 or 1
    probability: NDArray[np.float32]  # [n]
    version: NDArray[np.int64]  # [n] batches learnt before


_COLUMNS = tuple(field.name for field in fields(Predicted))


def no_rows() -> Predicted:
    return Predicted(
        np.empty(0, np.int64),
        np.empty(0, np.int64),
        np.empty(0, np.int8),
        np.empty(0, np.float32),
        np.empty(0, np.int64),
    )


class SampledRows:
    """At most about ``max_rows`` rows: above it, half of the users of every step go.

    Which users stay is decided by a hash of their ids, so that whoever stays has all
    of his rows. When there is room again, steps that begin from then on keep more.
    """

    def __init__(self, step_ms: int, max_rows: int) -> None:
        self.rows: StepRows[Predicted] = StepRows(step_ms, no_rows())
        self._max_rows = max_rows
        self._halvings = 0  # for steps that begin now
        self._of_step: dict[int, int] = {}
        self._versions: dict[int, tuple[int, int]] = {}  # of a step: least and greatest

    @property
    def share(self) -> float:
        """Of the users, those whose rows are kept of a step that begins now."""
        return float(2.0**-self._halvings)

    def add(self, step: int, rows: Predicted) -> None:
        """``rows`` of one step, at least one."""
        self._of_step.setdefault(step, self._halvings)
        self._note_versions(step, rows)
        self.rows.add(step, _sample(rows, self._of_step[step]))
        if self.rows.held > self._max_rows:
            self._thin_out()
        elif self._halvings and self.rows.held < self._max_rows // 4:
            self._halvings -= 1

    def between(self, first: int, last: int) -> Predicted:
        """Rows of the steps ``first`` to ``last``, of the users that all of them kept."""
        shares = {h for step, h in self._of_step.items() if first <= step <= last}
        rows = self.rows.between(first, last)
        return _sample(rows, max(shares)) if len(shares) > 1 else rows

    def of_versions(self, first: int, before: int | None) -> Predicted:
        """Rows of the versions ``first`` to before ``before``; None: all the later ones."""
        steps = [
            step
            for step, (least, greatest) in self._versions.items()
            if greatest >= first and (before is None or least < before)
        ]
        if not steps:
            return no_rows()
        rows = self.between(min(steps), max(steps))
        own_N = rows.version >= first
        return rows.take(own_N if before is None else own_N & (rows.version < before))

    def drop(self, before: int, version: int) -> None:
        """Forget the steps before ``before`` that hold nothing of ``version`` or a later one."""
        for step in self.rows.steps():
            if step < before and self._versions[step][1] < version:
                self.rows.drop(step)
                del self._of_step[step], self._versions[step]

    def _note_versions(self, step: int, rows: Predicted) -> None:
        least, greatest = int(rows.version.min()), int(rows.version.max())
        known = self._versions.get(step, (least, greatest))
        self._versions[step] = min(least, known[0]), max(greatest, known[1])

    def _thin_out(self) -> None:
        while self.rows.held > self._max_rows and self._halvings < MOST_HALVINGS:
            self._halvings = max(self._of_step.values()) + 1
            for step in self.rows.steps():
                self.rows.replace(step, _sample(self.rows.of(step), self._halvings))
                self._of_step[step] = self._halvings

    def state(self) -> dict[str, NDArray]:
        """All there is to know, for a checkpoint; the rows themselves, not copies."""
        steps = self.rows.steps()
        facts = [[step, self._of_step[step], *self._versions[step]] for step in steps]
        columns = {
            f"rows.{step}.{name}": getattr(self.rows.of(step), name)
            for step in steps
            for name in _COLUMNS
        }
        return {
            "steps": np.array(facts, np.int64).reshape(-1, 4),
            "halvings": np.array(self._halvings),
            **columns,
        }

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Go on from :meth:`state`; nothing may be held yet."""
        self._halvings = int(state["halvings"])
        for step, halvings, least, greatest in state["steps"].tolist():
            self._of_step[step], self._versions[step] = halvings, (least, greatest)
            columns = [state[f"rows.{step}.{name}"] for name in _COLUMNS]
            self.rows.add(step, Predicted(*columns))


def _sample(rows: Predicted, halvings: int) -> Predicted:
    return rows.take(stays(rows.user, halvings)) if halvings else rows


def stays(user_N: NDArray[np.int64], halvings: int) -> NDArray[np.bool_]:
    """Which users are left when half of them went, ``halvings`` times."""
    # `spread` leaves 0 where it is, and it is 0 that often stands for all who are not known.
    return np.asarray((spread(user_N ^ _SALT) >> (_BITS - halvings)) == 0)
