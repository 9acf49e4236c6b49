"""From a log's columns to an impression's: vectorised, arrays in, arrays out.

What cannot be read becomes a value that no good row has (-1, infinity), so that
:mod:`streaming.validation` finds the row and the reason; null stays null.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from streaming.conversion import to_clicks, to_integers, to_numbers

TIME_UNITS = ("auto", "iso", "s", "ms", "us", "ns")
_TO_MS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_SEPARATOR = b"\x1f"
_CLICKS = {b"0": 0, b"1": 1, b"0.0": 0, b"1.0": 1, b"false": 0, b"true": 1}


def is_text(type_: pa.DataType) -> bool:
    if kinds.is_dictionary(type_):
        return is_text(type_.value_type)
    binary = kinds.is_binary(type_) or kinds.is_large_binary(type_)
    return binary or kinds.is_string(type_) or kinds.is_large_string(type_)


def readable(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """``array`` cast to ``type_``, null where a value has no such form.

    Costs one cast where all is well, and about log2 n more for each value that is not.
    """
    try:
        return array.cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(array) == 1:
            return pa.nulls(1, type_)
        half = len(array) // 2
        parts = [readable(array[:half], type_), readable(array[half:], type_)]
        return pa.concat_arrays(parts)


def text_of(array: pa.Array) -> pa.Array:
    """string [n], trimmed; what is not UTF-8 becomes the empty string, which nothing reads."""
    decoded = _plain(array)
    known = readable(decoded, pa.string())
    lost = pc.and_(known.is_null(), decoded.is_valid())
    return pc.utf8_trim_whitespace(pc.if_else(lost, "", known))


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if kinds.is_dictionary(array.type) else array


def _marked(values: pa.Array, source: pa.Array, mark: float | int) -> pa.Array:
    """``mark`` where a value was there and could not be read."""
    if values.null_count == source.null_count:
        return values
    lost = pc.and_(values.is_null(), source.is_valid())
    return pc.if_else(lost, pa.scalar(mark, values.type), values)


# -- ids ----------------------------------------------------------------------


def hash_ids(columns: Sequence[pa.Array]) -> pa.Array:
    """int64 [n] in [0, 2^63): BLAKE2b of the values' UTF-8 text, 8 bytes, little-endian,
    the highest bit cleared. Several columns are joined by the byte 0x1F first. Null
    where a value is. Each distinct value is hashed once.
    """
    parts = [readable(_plain(column), pa.binary()) for column in map(_as_text, columns)]
    joined = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _SEPARATOR)
    encoded = joined.dictionary_encode()
    hashed = pa.array([hash_id(value) for value in encoded.dictionary.to_pylist()], pa.int64())
    return hashed.take(encoded.indices)


def hash_id(value: bytes) -> int:
    digest = hashlib.blake2b(value, digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


def _as_text(array: pa.Array) -> pa.Array:
    return array if is_text(array.type) else readable(_plain(array), pa.string())


def looks_integer(array: pa.Array) -> bool:
    """Whether ids are numbers as they stand, so that they need no hash."""
    if not is_text(array.type):
        return kinds.is_integer(array.type) or kinds.is_floating(array.type)
    text = text_of(array).drop_null()
    numbers = readable(text, pa.int64())
    if not len(text) or numbers.null_count:
        return False
    # "007" is a name, not the number 7.
    return bool(pc.min(numbers).as_py() >= 0 and numbers.cast(pa.string()).equals(text))


def ids(columns: Sequence[pa.Array], hashed: bool) -> pa.Array:
    """int64 [n]."""
    if hashed or len(columns) > 1:
        return hash_ids(columns)
    (column,) = columns
    if not is_text(column.type):
        return to_integers(column)
    text = text_of(column)
    return _marked(readable(text, pa.int64()), text, -1)


def id_lists(column: pa.Array, hashed: bool, separator: str) -> pa.Array:
    """list<int64> [n] from lists, or from text with ``separator`` between values."""
    column = _lists(column, separator)
    values = column.values
    if is_text(values.type) and len(values):
        # "a  b" and "" hold empty texts that are no values.
        return _without_empty(column, ids([values], hashed))
    return _with_values(column, ids([values], hashed) if len(values) else values.cast(pa.int64()))


def list_values(column: pa.Array, separator: str) -> pa.Array:
    """Every value of every list, one after the other."""
    return _lists(column, separator).values


def _lists(column: pa.Array, separator: str) -> pa.ListArray:
    if is_text(column.type):
        column = pc.split_pattern(text_of(column), separator)
    return column.cast(pa.list_(column.type.value_type))


def _with_values(lists: pa.ListArray, values: pa.Array) -> pa.ListArray:
    type_ = pa.list_(pa.int64())
    buffers = lists.buffers()[:2]
    return pa.Array.from_buffers(
        type_, len(lists), buffers, lists.null_count, lists.offset, [values]
    )


def _without_empty(lists: pa.ListArray, values: pa.Array) -> pa.ListArray:
    keep = pc.fill_null(pc.not_equal(pc.binary_length(lists.values), 0), True).to_numpy(False)
    if keep.all():
        return _with_values(lists, values)
    before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int32)
    offsets = before[lists.offsets.to_numpy()]
    mask = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(
        pa.array(offsets), values.filter(pa.array(keep)), mask=mask, type=pa.list_(pa.int64())
    )


# -- the rest -----------------------------------------------------------------


def clicks(column: pa.Array) -> pa.Array:
    """int8 [n] from numbers, booleans, or text: 0, 1, false, true."""
    if not is_text(column.type):
        return to_clicks(column)
    encoded = readable(pc.utf8_lower(text_of(column)), pa.binary()).dictionary_encode()
    known = [_CLICKS.get(value, -1) for value in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.int8()).take(encoded.indices)


def numbers(column: pa.Array) -> pa.Array:
    """float32 [n] from numbers, booleans or text."""
    column = _plain(column)
    if kinds.is_decimal(column.type):
        column = column.cast(pa.float64())
    if not is_text(column.type):
        return to_numbers(column)
    text = text_of(column)
    return to_numbers(_marked(readable(text, pa.float64()), text, np.inf))


def time_unit(column: pa.Array) -> str:
    """The unit of event times, from the first ones: their form, or how large they are."""
    if kinds.is_timestamp(column.type) or kinds.is_date(column.type):
        return "iso"
    if is_text(column.type):
        column = readable(text_of(column), pa.float64())
    values = column.drop_null().cast(pa.float64(), safe=False).to_numpy()
    if not len(values):
        return "iso"
    typical = float(np.median(np.abs(values)))
    # 2000 to 2100 in s, ms, us and ns are four ranges far apart.
    limits = (("s", 1e11), ("ms", 1e14), ("us", 1e17))
    return next((unit for unit, limit in limits if typical < limit), "ns")


def event_times(column: pa.Array, unit: str) -> pa.Array:
    """int64 [n], ms since 1970-01-01 UTC; times without a zone are UTC."""
    if kinds.is_timestamp(column.type) or kinds.is_date(column.type):
        zone = getattr(column.type, "tz", None)
        return column.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64())
    if unit == "iso":
        return _iso_times(text_of(_as_text(column)))
    source = text_of(column) if is_text(column.type) else column
    whole = readable(source, pa.int64())
    if not kinds.is_floating(source.type) and whole.null_count == source.null_count:
        times = _scaled(whole.fill_null(0).to_numpy(), unit)
    else:
        times = _scaled_floats(readable(source, pa.float64()).fill_null(np.nan).to_numpy(), unit)
    return pa.array(times, mask=source.is_null().to_numpy(zero_copy_only=False))


def _scaled(times: np.ndarray, unit: str) -> np.ndarray:
    if unit == "s":
        # Seconds that would not fit in ms are no times either.
        return np.where(np.abs(times) < 2**53, times, -1) * 1_000
    return times // {"ms": 1, "us": 1_000, "ns": 1_000_000}[unit]


def _scaled_floats(times: np.ndarray, unit: str) -> np.ndarray:
    # A float of seconds is good to 0.0003 ms: 0.9998 means the next one.
    found = np.floor(times * _TO_MS[unit] + 5e-4)
    usable = np.isfinite(found) & (np.abs(found) < 2.0**62)
    return np.where(usable, found, -1).astype(np.int64)


def _iso_times(text: pa.Array) -> pa.Array:
    has_zone = pc.match_substring_regex(text, r"(Z|[+-]\d\d:?\d\d)$")
    nothing = pa.scalar(None, pa.string())
    zoned = _milliseconds(pc.if_else(has_zone, text, nothing), "UTC")
    naive = _milliseconds(pc.if_else(has_zone, nothing, text), None)
    return _marked(pc.coalesce(zoned, naive), text, -1)


def _milliseconds(text: pa.Array, zone: str | None) -> pa.Array:
    """int64 [n] of ISO 8601 text, null where it is not; floats would not hold nanoseconds."""
    found = readable(text, pa.timestamp("ns", zone)).cast(pa.int64())
    whole = found.fill_null(0).to_numpy() // 1_000_000
    return pa.array(whole, mask=found.is_null().to_numpy(zero_copy_only=False))
