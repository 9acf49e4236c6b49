"""Which rows of a record can be believed: vectorised, arrays in, arrays out.

The columns come in canonical types (:meth:`streaming.impressions.ImpressionSchema.arrow`);
values that did not fit their type arrive as one that no good row has: -1 for an
integer, infinity for a float.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from streaming.impressions import CLICK, EVENT_TIME


class Reason(StrEnum):
    """Why a record or a row is a dead letter: a metric label and a header, so a fixed set."""

    EMPTY_RECORD = "empty-record"
    """No value (a tombstone), no bytes, or no rows."""
    UNKNOWN_FORMAT = "unknown-format"
    """Neither the content type nor the first bytes say Arrow or JSON."""
    UNDECODABLE_ARROW = "undecodable-arrow"
    """Truncated or corrupted, or bytes follow the end of the stream."""
    UNDECODABLE_JSON = "undecodable-json"
    """Not JSON, not UTF-8, or not one object."""
    TOO_MANY_ROWS = "too-many-rows"
    MISSING_COLUMN = "missing-column"
    WRONG_TYPE = "wrong-type"
    """A column of a type that has no safe way to the declared one."""
    NULL_VALUE = "null-value"
    """Null in a column that is not optional."""
    NULL_IN_LIST = "null-in-list"
    BAD_ID = "bad-id"
    """An id, category or impression id below zero, above 2^63 - 1, or not whole."""
    BAD_CLICK = "bad-click"
    """Neither 0 nor 1, such as NaN."""
    EVENT_TIME_RANGE = "event-time-range"
    """Before `min_event_time` or after `max_event_time`."""
    EVENT_TIME_AHEAD = "event-time-ahead"
    """More than `max_lead_ms` ahead of the record's timestamp."""
    NOT_FINITE = "not-finite"
    """A numeric feature that is NaN, infinite, or beyond float32."""


ROW_REASONS = (
    Reason.NULL_VALUE,
    Reason.NULL_IN_LIST,
    Reason.BAD_ID,
    Reason.BAD_CLICK,
    Reason.EVENT_TIME_RANGE,
    Reason.EVENT_TIME_AHEAD,
    Reason.NOT_FINITE,
)
"""A row with several faults is reported for the first of these."""

_NULL, _IN_LIST, _ID, _CLICK, _RANGE, _AHEAD, _FINITE = range(len(ROW_REASONS))
GOOD = len(ROW_REASONS)
"""Stands for a row without fault where others have the index of a reason."""

Faults = list[tuple[int, np.ndarray]]


class Rule(NamedTuple):
    """What holds for one canonical column."""

    kind: Literal["id", "list", "click", "time", "number"]
    nullable: bool


def rules(schema: pa.Schema) -> tuple[Rule, ...]:
    """One rule a column of a canonical schema, in its order."""
    return tuple(Rule(_kind(field), field.nullable) for field in schema)


def _kind(field: pa.Field) -> Literal["id", "list", "click", "time", "number"]:
    if field.name == CLICK:
        return "click"
    if field.name == EVENT_TIME:
        return "time"
    if pa.types.is_list(field.type):
        return "list"
    return "number" if pa.types.is_floating(field.type) else "id"


class TimeRange(NamedTuple):
    """Event times believed, ms, both ends included."""

    earliest: int
    latest: int
    lead: int  # latest that the record's own timestamp allows


def first_faults(
    rules: Sequence[Rule], columns: Sequence[pa.Array], times: TimeRange
) -> np.ndarray | None:
    """For each of n rows, the index in ROW_REASONS of its first fault.

    Returns:
        int64 [n], GOOD for a good row; or None when all are good,
        which is told from a minimum a column, without a mask.
    """
    found: Faults = []
    for rule, array in zip(rules, columns, strict=True):
        nulls = array.null_count
        if nulls and not rule.nullable:
            found.append((_NULL, _is_null(array)))
        if rule.kind == "list":
            found.extend(_list_faults(array))
        else:
            values = (array.fill_null(_ABSENT[rule.kind]) if nulls else array).to_numpy()
            found.extend(_CHECKS[rule.kind](values, times))
    if not found:
        return None
    codes = np.full(len(columns[0]), GOOD)
    for code, mask in found:
        np.minimum(codes, np.where(mask, code, GOOD), out=codes)
    return codes if (codes < GOOD).any() else None


def _is_null(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _id_faults(values: np.ndarray, times: TimeRange) -> Faults:
    return [(_ID, values < 0)] if values.min() < 0 else []


def _click_faults(values: np.ndarray, times: TimeRange) -> Faults:
    # As unsigned bytes every other value, negative ones too, is above 1.
    clicks = values.view(np.uint8)
    return [(_CLICK, clicks > 1)] if clicks.max() > 1 else []


def _time_faults(values: np.ndarray, times: TimeRange) -> Faults:
    low, high = values.min(), values.max()
    found: Faults = []
    if low < times.earliest or high > times.latest:
        found.append((_RANGE, (values < times.earliest) | (values > times.latest)))
    if high > times.lead:
        found.append((_AHEAD, values > times.lead))
    return found


def _number_faults(values: np.ndarray, times: TimeRange) -> Faults:
    finite = np.isfinite(values)
    return [] if finite.all() else [(_FINITE, ~finite)]


def _list_faults(array: pa.ListArray) -> Faults:
    values = array.values
    if not len(values):
        return []
    found: Faults = []
    if values.null_count:
        found.append((_IN_LIST, _rows_holding(array, _is_null(values))))
        values = values.fill_null(0)
    numbers = values.to_numpy()
    if numbers.min() < 0:
        found.append((_ID, _rows_holding(array, numbers < 0)))
    return found


def _rows_holding(array: pa.ListArray, flags: np.ndarray) -> np.ndarray:
    """Rows with a flagged value; values that lie outside every row do not count."""
    before = np.concatenate([[0], np.cumsum(flags)])
    offsets = array.offsets.to_numpy()
    return (before[offsets[1:]] > before[offsets[:-1]]) & ~_is_null(array)


_CHECKS = {
    "id": _id_faults,
    "click": _click_faults,
    "time": _time_faults,
    "number": _number_faults,
}
_ABSENT = {"id": 0, "click": 0, "time": 0, "number": 0.0}
