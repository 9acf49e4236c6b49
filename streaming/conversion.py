"""From the columns that a producer wrote to the canonical ones, safely and vectorised.

Values that do not fit become ones that no good row has (-1, infinity), so that
:mod:`streaming.validation` finds the row; a column whose type has no safe way to
the declared one is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from streaming.validation import Reason, Rule, rules

MAX_UNBACKED_VALUES = 1_000_000
"""A null array takes no bytes, whatever its length: longer ones are not believed."""

Convert = Callable[[pa.Array], pa.Array]


class Refused(Exception):
    """The record as a whole cannot be used; ``rows`` is how many it holds, if that is known."""

    def __init__(self, reason: Reason, detail: str, rows: int = 1) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.rows = rows


@dataclass(frozen=True)
class Plan:
    """How records of one written schema become canonical columns."""

    target: pa.Schema
    rules: tuple[Rule, ...]
    steps: tuple[tuple[int, Convert | None], ...]
    """For each canonical column: where it stands in the record (-1: nowhere), and its
    conversion, if it needs one."""
    identical: bool
    """The record is canonical as it is."""
    unknown: tuple[str, ...]
    """Columns that the schema does not know."""

    def columns(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The canonical columns of ``batch``, n rows each.

        Raises:
            Refused: a column whose values turn out to have no canonical form.
        """
        if self.identical:
            return batch.columns
        found = []
        for (index, convert), field in zip(self.steps, self.target, strict=True):
            if index < 0:
                found.append(pa.nulls(batch.num_rows, field.type))
            else:
                array = batch.column(index)
                found.append(array if convert is None else convert(array))
        return found


def plan(written: pa.Schema, target: pa.Schema) -> Plan:
    """Work out, once a written schema, how its records become ``target``.

    Raises:
        Refused: a column is missing, there twice, or of a type without a safe way.
    """
    steps = []
    for field in target:
        places = written.get_all_field_indices(field.name)
        if len(places) > 1:
            raise Refused(Reason.WRONG_TYPE, f"column {field.name} is there {len(places)} times")
        if places:
            steps.append((places[0], _converter(field, written.field(places[0]).type)))
        elif field.nullable:
            steps.append((-1, None))
        else:
            raise Refused(Reason.MISSING_COLUMN, f"no column {field.name}")
    known = set(target.names)
    return Plan(
        target=target,
        rules=rules(target),
        steps=tuple(steps),
        identical=written.equals(target),
        unknown=tuple(name for name in written.names if name not in known),
    )


def _converter(field: pa.Field, source: pa.DataType) -> Convert | None:
    if source.equals(field.type):
        return None
    if kinds.is_null(source):
        return lambda array: _nulls(array, field.type)
    if kinds.is_list(field.type) and _list_of_integers(source):
        return to_lists
    if kinds.is_int8(field.type) and (_integers(source) or kinds.is_boolean(source)):
        return to_clicks
    if kinds.is_int64(field.type) and _integers(source):
        return to_integers
    if kinds.is_floating(field.type) and (_integers(source) or kinds.is_boolean(source)):
        return to_numbers
    detail = f"column {field.name} is {source}, expected {field.type}"
    raise Refused(Reason.WRONG_TYPE, detail[:500])


def _integers(type_: pa.DataType) -> bool:
    if kinds.is_dictionary(type_):
        return _integers(type_.value_type)
    return kinds.is_integer(type_) or kinds.is_floating(type_)


def _list_of_integers(type_: pa.DataType) -> bool:
    is_list = kinds.is_list(type_) or kinds.is_large_list(type_) or kinds.is_fixed_size_list(type_)
    return is_list and (_integers(type_.value_type) or kinds.is_null(type_.value_type))


def _nulls(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if len(array) > MAX_UNBACKED_VALUES:
        raise Refused(Reason.WRONG_TYPE, f"{len(array)} values of type null")
    return pa.nulls(len(array), type_)


def to_integers(array: pa.Array) -> pa.Array:
    """int64 [n] from any integers, whole floats or a dictionary of them; what does not fit: -1."""
    if kinds.is_dictionary(array.type):
        return to_integers(array.dictionary_decode())
    if kinds.is_null(array.type):
        return _nulls(array, pa.int64())
    values = _values(array)
    if kinds.is_floating(array.type):
        # Beyond its mantissa a float no longer tells neighbouring integers apart.
        exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        fits = (np.abs(values) <= exact) & (values == np.floor(values))
        values = np.where(fits, values, -1)
    # An unsigned integer above 2^63 - 1 turns negative.
    return pa.array(values.astype(np.int64), mask=_mask(array))


def to_clicks(array: pa.Array) -> pa.Array:
    """int8 [n] from booleans, integers or floats; what is neither 0 nor 1: -1."""
    if kinds.is_boolean(array.type):
        return array.cast(pa.int8())
    if kinds.is_dictionary(array.type):
        return to_clicks(array.dictionary_decode())
    values = _values(array)
    clicks = np.where((values == 0) | (values == 1), values, -1).astype(np.int8)
    return pa.array(clicks, mask=_mask(array))


def to_numbers(array: pa.Array) -> pa.Array:
    """float32 [n] from numbers of any kind or booleans; what is too large: infinity."""
    if kinds.is_boolean(array.type):
        array = array.cast(pa.int8())
    if kinds.is_dictionary(array.type):
        return to_numbers(array.dictionary_decode())
    with np.errstate(over="ignore"):
        return pa.array(_values(array).astype(np.float32), mask=_mask(array))


def to_lists(array: pa.Array) -> pa.Array:
    """list<int64> [n] from lists of any width of what :func:`to_integers` takes."""
    if not kinds.is_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    target = pa.list_(pa.int64())
    values = to_integers(array.values)
    return pa.Array.from_buffers(
        target, len(array), array.buffers()[:2], array.null_count, array.offset, [values]
    )


def _values(array: pa.Array) -> np.ndarray:
    """The values as they are, 0 in place of null; Arrow's own casts cost more than all of this."""
    return (array.fill_null(0) if array.null_count else array).to_numpy()


def _mask(array: pa.Array) -> np.ndarray | None:
    return array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
