"""Row checks: one reason a row, in the documented order, nothing else touched."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.impressions import Feature, ImpressionSchema
from streaming.validation import (
    GOOD,
    ROW_REASONS,
    Reason,
    Rule,
    TimeRange,
    first_faults,
    rules,
)

TIMES = TimeRange(earliest=1_000, latest=9_000, lead=5_000)


def check(kind, values, type_, nullable=False):
    array = pa.array(values, type=type_)
    codes = first_faults([Rule(kind, nullable)], [array], TIMES)
    if codes is None:
        return [None] * len(array)
    return [None if code == GOOD else ROW_REASONS[code] for code in codes]


@pytest.mark.parametrize(
    ("kind", "type_", "values", "expected"),
    [
        ("id", pa.int64(), [0, -1, 2**63 - 1, -(2**63)], [0, Reason.BAD_ID, 0, Reason.BAD_ID]),
        ("id", pa.int64(), [1, None], [0, Reason.NULL_VALUE]),
        ("click", pa.int8(), [0, 1, 2, -1], [0, 0, Reason.BAD_CLICK, Reason.BAD_CLICK]),
        ("click", pa.int8(), [0, None], [0, Reason.NULL_VALUE]),
        (
            "time",
            pa.int64(),
            [999, 1_000, 5_000, 5_001, 9_000, 9_001],
            [
                Reason.EVENT_TIME_RANGE,
                0,
                0,
                Reason.EVENT_TIME_AHEAD,
                Reason.EVENT_TIME_AHEAD,
                Reason.EVENT_TIME_RANGE,
            ],
        ),
        (
            "number",
            pa.float32(),
            [0.0, float("nan"), float("inf"), float("-inf"), -3.0e38],
            [0, Reason.NOT_FINITE, Reason.NOT_FINITE, Reason.NOT_FINITE, 0],
        ),
        (
            "list",
            pa.list_(pa.int64()),
            [[], [1, 2], [3, None], None, [4, -4], [-1, None]],
            [0, 0, Reason.NULL_IN_LIST, Reason.NULL_VALUE, Reason.BAD_ID, Reason.NULL_IN_LIST],
        ),
    ],
)
def test_each_kind(kind, type_, values, expected):
    assert check(kind, values, type_) == [reason or None for reason in expected]


def test_null_is_fine_where_optional():
    assert check("id", [None, 3], pa.int64(), nullable=True) == [None, None]
    assert check("number", [None, 3.0], pa.float32(), nullable=True) == [None, None]
    assert check("list", [None, [3]], pa.list_(pa.int64()), nullable=True) == [None, None]


def test_first_reason_in_order_wins():
    columns = [
        pa.array([-1, -1, None], pa.int64()),
        pa.array([5, 0, 5], pa.int8()),
        pa.array([np.nan, np.nan, np.nan], pa.float32()),
    ]
    kinds = [Rule("id", False), Rule("click", False), Rule("number", False)]
    codes = first_faults(kinds, columns, TIMES)
    assert [ROW_REASONS[code] for code in codes] == [
        Reason.BAD_ID,
        Reason.BAD_ID,
        Reason.NULL_VALUE,
    ]


def test_all_good_is_told_apart_without_masks():
    schema = ImpressionSchema(features=(Feature(name="user_id", kind="id"), _item()))
    columns = [
        pa.array([1]),
        pa.array([2_000]),
        pa.array([1], pa.int8()),
        pa.array([3]),
        pa.array([4]),
    ]
    assert first_faults(rules(schema.arrow), columns, TIMES) is None


def _item():
    return Feature(name="item_id", kind="id")


def test_a_list_slice_and_the_values_behind_a_null_do_not_count():
    values = pa.array([-9, 1, 2, -9, 3], pa.int64())
    # Row 0 lies before the slice, row 2 is null although it spans the second -9.
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 4, 5], pa.int32()), values, mask=pa.array([False, False, True, False])
    )
    codes = first_faults([Rule("list", True)], [lists.slice(1)], TIMES)
    assert codes is None


LISTS = st.none() | st.lists(st.none() | st.integers(-2, 5), max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=20), st.booleans())
def test_lists_agree_with_a_row_by_row_check(rows, nullable):
    def expected(row):
        if row is None:
            return None if nullable else Reason.NULL_VALUE
        if None in row:
            return Reason.NULL_IN_LIST
        return Reason.BAD_ID if any(value < 0 for value in row) else None

    assert check("list", rows, pa.list_(pa.int64()), nullable) == [expected(r) for r in rows]
