import numpy as np

from embeddings.ids import ID_SPACE, gather, place_in_rows, spread


def to_rows(values: np.ndarray, rows: int) -> np.ndarray:
    place_in_rows(values, rows)
    return values


def test_spreading_can_be_undone():
    rng = np.random.default_rng(0)
    ids = np.concatenate([np.arange(10_000), rng.integers(0, 2**63, 10_000)])
    spread_ids = spread(ids)
    assert len(np.unique(spread_ids)) == len(np.unique(ids))
    np.testing.assert_array_equal(gather(spread_ids), ids)


def test_small_ids_fill_the_space_evenly():
    eighths = np.bincount(spread(np.arange(80_000)) // (2**60), minlength=8)
    assert abs(eighths - 10_000).max() < 500


def test_no_id_takes_the_mark_of_a_free_row():
    marked = gather(np.array([ID_SPACE]))
    assert spread(marked)[0] == ID_SPACE - 1
    assert spread(np.array([2**63 - 1]))[0] < ID_SPACE


def test_a_small_vocabulary_has_no_collisions():
    np.testing.assert_array_equal(to_rows(np.arange(24), 24), np.arange(24))


def test_large_and_negative_values_get_a_row_too():
    rows = to_rows(np.array([-1, -(2**63), 10**15, 24], dtype=np.int64), 24)
    assert ((rows >= 0) & (rows < 24)).all()
    many = to_rows(np.arange(10**6, 10**6 + 24_000), 24)
    assert np.bincount(many, minlength=24).min() > 800


def test_values_that_share_a_remainder_do_not_share_a_row():
    rows = to_rows(np.arange(24, 24 * 1_001, 24), 24)
    assert np.bincount(rows, minlength=24).min() > 20
