import os

import numpy as np
import pytest

from monitoring.monitor_checkpoint import NAME, DamagedState, read_state, set_aside, write_state

FACTS = {"a": [1, None], "b": {"c": "d"}}
ARRAYS = {
    "x": np.arange(5),
    "empty": np.empty((0, 3), np.float32),
    "scalar": np.array(7),
    "strided": np.arange(10)[::2],
}


def test_gives_back_what_was_written(tmp_path):
    assert read_state(tmp_path) is None
    write_state(tmp_path, {}, {})
    write_state(tmp_path, FACTS, ARRAYS)
    facts, arrays = read_state(tmp_path)
    assert facts == FACTS and list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("at", [3, 70, 200, -1])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path, at):
    write_state(tmp_path, FACTS, ARRAYS)
    content = bytearray((tmp_path / NAME).read_bytes())
    content[at] ^= 4
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DamagedState):
        read_state(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 65, 300])
def test_a_file_that_was_cut_is_noticed(tmp_path, kept):
    write_state(tmp_path, FACTS, ARRAYS)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(content[:kept])
    with pytest.raises(DamagedState):
        read_state(tmp_path)


def test_a_write_that_fails_leaves_the_one_before(tmp_path):
    write_state(tmp_path, FACTS, ARRAYS)
    with pytest.raises(ValueError, match="pickle"):
        write_state(tmp_path, {}, {"bad": np.array([object()])})
    assert read_state(tmp_path)[0] == FACTS
    aside = set_aside(tmp_path)
    assert read_state(tmp_path) is None and aside.exists()


def test_only_the_newest_damaged_ones_are_kept(tmp_path):
    for number in range(6):
        old = tmp_path / f"damaged-2025010{number}T000000-1"
        old.touch()
        os.utime(old, (number, number))
    write_state(tmp_path, FACTS, ARRAYS)
    aside = set_aside(tmp_path)
    kept = {path.name for path in tmp_path.glob("damaged-*")}
    assert kept == {aside.name, "damaged-20250104T000000-1", "damaged-20250105T000000-1"}
