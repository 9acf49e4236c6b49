"""Rows as columns, and rows kept by the step of event time that they belong to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Columns:
    """n rows; a subclass adds its columns, each [n]."""

    event_time: NDArray[np.int64]  # [n] ms

    def __len__(self) -> int:
        return len(self.event_time)

    def take(self, index: NDArray) -> Self:
        """The rows of a mask [n], or of indexes."""
        return type(self)(*(column[index] for column in self.columns()))

    def columns(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        columns = zip(*(part.columns() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


R = TypeVar("R", bound=Columns)


class StepRows(Generic[R]):
    """Rows by step: step s holds the event times from s * ``step_ms`` to before the next."""

    def __init__(self, step_ms: int, none: R) -> None:
        self.step_ms = step_ms
        self.held = 0
        self._none = none
        self._steps: dict[int, list[R]] = {}

    def __contains__(self, step: int) -> bool:
        return step in self._steps

    def __bool__(self) -> bool:
        return bool(self._steps)

    def steps(self) -> list[int]:
        """Those that hold rows, in order."""
        return sorted(self._steps)

    def split(self, rows: R) -> Iterator[tuple[int, R]]:
        """``rows`` by step, in order of steps; each step's keep their order."""
        step_N = rows.event_time // self.step_ms
        if not len(step_N):
            return
        if step_N[0] == step_N[-1] and (step_N == step_N[0]).all():
            yield int(step_N[0]), rows
            return
        order_N = np.argsort(step_N, kind="stable")
        step_N = step_N[order_N]
        cuts = [0, *(np.flatnonzero(np.diff(step_N)) + 1).tolist(), len(step_N)]
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
            yield int(step_N[begin]), rows.take(order_N[begin:end])

    def add(self, step: int, rows: R) -> None:
        self._steps.setdefault(step, []).append(rows)
        self.held += len(rows)

    def of(self, step: int) -> R:
        """A step's rows, put together once."""
        parts = self._steps.get(step)
        if not parts:
            return self._none
        if len(parts) > 1:
            self._steps[step] = parts = [type(self._none).concatenate(parts)]
        return parts[0]

    def between(self, first: int, last: int) -> R:
        """The rows of the steps ``first`` to ``last``, both included, in their order."""
        inside = range(first, last + 1)
        steps = self.steps() if len(inside) > len(self._steps) else inside
        parts = [self.of(step) for step in steps if step in inside and step in self._steps]
        return type(self._none).concatenate(parts) if parts else self._none

    def replace(self, step: int, rows: R) -> None:
        self.drop(step)
        self.add(step, rows)

    def drop(self, step: int) -> None:
        self.held -= sum(len(part) for part in self._steps.pop(step, []))
