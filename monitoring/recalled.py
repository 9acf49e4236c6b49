"""What one version of a level knows of past periods, and how it is announced. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_MOST_PERIODS = 64


@dataclass(frozen=True)
class Recalled:
    """Of held-back impressions, which were never learnt; NaN where fewer than two periods
    are over. See `monitoring.metrics.forgetting`."""

    backward_transfer: float
    forgetting: float
    gauc: tuple[float, ...]
    """On the impressions of each past period that is kept, the newest first."""

    def plain(self) -> dict[str, Any]:
        """Fit for JSON, which has no NaN: an undefined figure is null."""
        return {
            "backward_transfer": _or_null(self.backward_transfer),
            "forgetting": _or_null(self.forgetting),
            "gauc": [_or_null(value) for value in self.gauc],
        }

    @staticmethod
    def of(plain: Any) -> Recalled:
        """What :meth:`plain` gave.

        Raises:
            ValueError: it is nothing of the kind.
        """
        try:
            gauc = tuple(_within(value, 0) for value in plain["gauc"])
            transfer = _within(plain["backward_transfer"], -1)
            found = Recalled(transfer, _within(plain["forgetting"], -1), gauc)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"nothing recalled: {error}") from None
        if len(gauc) > _MOST_PERIODS:
            raise ValueError(f"nothing recalled: {len(gauc)} periods")
        return found


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _within(value: Any, least: float) -> float:
    """A number from ``least`` to 1; NaN for null."""
    if value is None:
        return math.nan
    if type(value) not in (int, float) or not least <= value <= 1:
        raise ValueError(f"no figure from {least} to 1: {str(value)[:40]}")
    return float(value)
