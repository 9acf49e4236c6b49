"""Logs become impressions: every row is imported or rejected, in order of event time."""

import csv
import gzip
import hashlib
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Config
from errors import UserError
from settings import load
from streaming import import_columns as columns
from streaming.import_sorting import EventTimeSorter
from streaming.importer import command
from streaming.impressions import Feature, ImpressionSchema

OPEN_BANDIT = Path(__file__).parents[2] / "data" / "open_bandit"


def run(*arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def table(folder, domain="ad"):
    return pq.read_table(folder / domain)


def rejected(folder):
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def write_csv(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# -- a real log ---------------------------------------------------------------


def bandit_rows():
    with gzip.open(OPEN_BANDIT / "random_all.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def milliseconds(text):
    return int(datetime.fromisoformat(text).timestamp() * 1_000_000) // 1_000


def id_of(text):
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**63


def test_open_bandit_dataset(tmp_path):
    out = tmp_path / "log"
    log = OPEN_BANDIT / "random_all.csv.gz"
    text = run(log, "--out", out, "--mapping", OPEN_BANDIT / "mapping.toml")

    source = bandit_rows()
    clicks = sum(int(row["click"]) for row in source)
    assert f"{len(source):,} impressions, {clicks} clicks ({clicks / len(source):.2%})" in text
    expected = sorted(
        (
            milliseconds(row["timestamp"]),
            number,
            int(row["click"]),
            id_of("\x1f".join(row[f"user_feature_{i}"] for i in range(4))),
            int(row["item_id"]),
            int(row["position"]),
            id_of(row["user_feature_1"]),
            float(np.float32(row["propensity_score"])),
        )
        for number, row in enumerate(source)
    )
    names = ["event_time", "impression_id", "click", "user_id", "item_id", "position"]
    names += ["user_feature_1", "propensity"]
    found = table(out).select(names).to_pydict()
    assert list(zip(*found.values(), strict=True)) == expected
    assert len({row[3] for row in expected}) > 100
    assert rejected(out) == []

    schema = load(Config, out / "schema.toml", environ={}).config.impressions
    assert table(out).schema == schema.arrow
    assert [f.name for f in schema.numeric] == ["propensity"]


# -- bad input ----------------------------------------------------------------

HEAD = "event_time,click,user_id,item_id,price\n"


def test_every_row_is_imported_or_rejected_with_a_reason(tmp_path):
    lines = [
        "2024-05-01T00:00:02Z,0,u1,i1,1.5",
        "2024-05-01 00:00:01.500+02:00,1,u2,i1,",
        "2024-13-01T00:00:01Z,0,u1,i1,1",
        "2024-05-01 00:00:00,true,u1,i2,2",
        "1999-05-01 00:00:00,0,u1,i2,2",
        "2024-05-01T00:00:04Z,2,u1,i1,1",
        "2024-05-01T00:00:05Z,,u1,i1,1",
        "2024-05-01T00:00:06Z,0,,i1,1",
        "2024-05-01T00:00:07Z,0,u1,i1,cheap",
        "too,few",
        '2024-05-01T00:00:08Z,0,"u,1","i\n1",3',
    ]
    body = HEAD.encode() + "\n".join(lines).encode() + b"\n2024-05-01T00:00:09Z,0,\xff,i1,1\n"
    out = tmp_path / "log"
    text = run(write_csv(tmp_path / "a.csv", body), "--out", out, "--map", "price=price:numeric")

    assert table(out)["impression_id"].to_pylist() == [1, 3, 0, 9, 10]
    assert table(out)["click"].to_pylist() == [1, 1, 0, 0, 0]
    assert table(out)["user_id"].to_pylist()[3] == id_of("u,1")
    assert table(out)["price"].to_pylist() == [None, 2.0, 1.5, 3.0, 1.0]
    reasons = {entry.get("row"): entry["reason"] for entry in rejected(out)}
    assert reasons == {
        None: "malformed-line",
        2: "event-time-range",
        4: "event-time-range",
        5: "bad-click",
        6: "null-value",
        7: "null-value",
        8: "not-finite",
    }
    kept = next(entry for entry in rejected(out) if entry.get("row") == 8)
    assert kept["values"]["price"] == "cheap"
    assert "5 impressions, 2 clicks" in text
    assert "2 rejected: null-value" in text


def test_numbers_that_turn_into_names_are_rejected_or_hashed(tmp_path):
    body = HEAD + "1714521600,0,5,1,1\n" + "1714521601,0,5,2x,1\n" + "1714521602,0,-5,3,1\n"
    log = write_csv(tmp_path / "a.csv", body)
    run(log, "--out", tmp_path / "hashed", "--hash", "user_id", "--hash", "item_id")
    assert table(tmp_path / "hashed")["item_id"].to_pylist() == [id_of(x) for x in ("1", "2x", "3")]
    ordered = write_csv(tmp_path / "b.csv", HEAD + "1714521600,0,5,1,1\n1714521601,0,7,-2,1\n")
    run(ordered, "--out", tmp_path / "numbers", "--hash", "item_id")
    assert table(tmp_path / "numbers")["user_id"].to_pylist() == [5, 7]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--map", "user_id=user"], "did you mean --map user_id=user_id?"),
        (["--map", "price=price:numric"], "did you mean numeric?"),
        (["--map", "price=price+click:numeric"], "only an id or a category"),
        (["--map", "click=click:id"], "takes no kind"),
        (["--map", "Price=price"], "Price"),
        (["--hash", "user"], "no such column"),
        (["--mapping", "nowhere.toml"], "not a readable TOML file"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path, arguments, words):
    log = write_csv(tmp_path / "a.csv", HEAD)
    with pytest.raises(UserError) as error:
        run(log, "--out", tmp_path / "log", *arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "log").exists()


def test_no_place_empty_log_and_a_folder_in_use(tmp_path):
    log = write_csv(tmp_path / "a.csv", HEAD)
    with pytest.raises(UserError, match="where to"):
        run(log)
    assert "nothing imported" in run(log, "--out", tmp_path / "log")
    with pytest.raises(UserError, match="is not empty"):
        run(log, "--out", tmp_path / "log")
    with pytest.raises(UserError, match="cannot be read"):
        run(write_csv(tmp_path / "empty.csv", ""), "--out", tmp_path / "other")


def test_an_import_that_failed_or_was_killed_leaves_nothing_and_is_done_again(
    tmp_path, monkeypatch
):
    log = write_csv(tmp_path / "a.csv", HEAD + "1714521600,0,5,1,1\n")
    with monkeypatch.context() as patch:
        patch.setattr(EventTimeSorter, "stretches", lambda self: 1 / 0)
        with pytest.raises(AssertionError):
            run(log, "--out", tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    (tmp_path / "log.partial" / "sort").mkdir(parents=True)  # what a kill leaves
    (tmp_path / "log.partial" / "sort" / "run-0").touch()
    run(log, "--out", tmp_path / "log")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "log"]
    assert sorted(p.name for p in (tmp_path / "log").iterdir()) == [
        "ad",
        "rejected.jsonl",
        "schema.toml",
    ]


# -- Parquet ------------------------------------------------------------------


def test_parquet_files_with_types_of_their_own(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for part in range(2):
        times = [datetime(2024, 5, 1, part), datetime(2024, 5, 2)]
        content = pa.table(
            {
                "when": pa.array(times, pa.timestamp("us")),
                "clicked": [True, False],
                "user_id": pa.array(["ann", "bob"]).dictionary_encode(),
                "item_id": pa.array([7, 8], pa.int32()),
                "seen": pa.array([["x", "y"], []], pa.list_(pa.string())),
                "tags": pa.array([[1], None], pa.list_(pa.int16())),
            }
        )
        pq.write_table(content, source / f"{part}.parquet")
    out = tmp_path / "log"
    flags = ["event_time=when", "click=clicked", "recent_items=seen:id[]"]
    flags += ["tags=tags:categorical[]"]
    maps = [x for flag in flags for x in ("--map", flag)]
    run(source, "--out", out, "--domain", "natural", *maps)
    found = table(out, "natural").to_pydict()
    assert found["user_id"] == [id_of(n) for n in ("ann", "ann", "bob", "bob")]
    assert found["item_id"] == [7, 7, 8, 8]
    assert found["click"] == [1, 1, 0, 0]
    assert found["recent_items"] == [[id_of("x"), id_of("y")]] * 2 + [[]] * 2
    assert found["tags"] == [[1], [1], None, None]
    assert found["impression_id"] == [0, 2, 1, 3]
    schema = load(Config, out / "schema.toml", environ={}).config.impressions
    recent = next(f for f in schema.features if f.name == "recent_items")
    assert (recent.multi, recent.table_name) == (True, "item_id")


# -- columns ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1_714_521_600, 1_714_521_601], "s"),
        ([1_714_521_600_123, 1_714_521_601_999], "ms"),
        ([1_714_521_600_123_456], "us"),
        ([1_714_521_600_123_456_789], "ns"),
    ],
)
def test_units_of_time(values, unit):
    factor = {"s": 1_000, "ms": 1}.get(unit)
    per = {"us": 1_000, "ns": 1_000_000}.get(unit)
    expected = [v * factor if factor else v // per for v in values]
    for array in (pa.array(values), pa.array([str(v) for v in values])):
        assert columns.time_unit(array) == unit
        assert columns.event_times(array, unit).to_pylist() == expected


def test_float_seconds_and_dates():
    assert columns.event_times(pa.array([1_714_521_600.762]), "s").to_pylist() == [
        1_714_521_600_762
    ]
    assert columns.event_times(pa.array(["2024-05-01", None, "x"]), "iso").to_pylist() == [
        1_714_521_600_000,
        None,
        -1,
    ]


@given(st.lists(st.integers(946_684_800_000, 4_102_444_800_000), min_size=1))
def test_iso_times_are_exact_to_the_millisecond(times):
    text = pa.array(np.array(times, "datetime64[ms]")).cast(pa.string())
    assert columns.event_times(text, "iso").to_pylist() == times


def test_hash_is_the_documented_one_and_the_same_for_every_type():
    texts = ["a", None, "", "naïve", "a"]
    expected = [None if t is None else id_of(t) for t in texts]
    array = pa.array(texts)
    for form in (
        array,
        array.cast(pa.binary()),
        array.dictionary_encode(),
        array.cast("large_string"),
    ):
        assert columns.hash_ids([form]).to_pylist() == expected
    assert columns.hash_ids([pa.array([12])]).to_pylist() == [id_of("12")]
    both = columns.hash_ids([pa.array(["a", "a", None]), pa.array(["b", None, "b"])])
    assert both.to_pylist() == [id_of("a\x1fb"), None, None]
    # Pinned: ids of logs imported before must stay what they are.
    assert columns.hash_id(b"a") == 3_405_396_810_240_292_928


def test_lists_in_text():
    found = columns.id_lists(pa.array(["3 4", "", None, "5  6"]), False, " ")
    assert found.to_pylist() == [[3, 4], [], None, [5, 6]]


def test_leading_zeros_are_names():
    assert columns.looks_integer(pa.array(["7", "8", None]))
    assert not columns.looks_integer(pa.array(["007"]))
    assert not columns.looks_integer(pa.array(["-7"]))
    assert not columns.looks_integer(pa.array([None], pa.string()))


# -- order --------------------------------------------------------------------

SCHEMA = ImpressionSchema(
    features=(Feature(name="user_id", kind="id"), Feature(name="item_id", kind="id"))
)


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.integers(0, 40), max_size=120),
    cuts=st.integers(1, 50),
    rows=st.sampled_from([3, 10, 600]),
)
def test_sorted_by_event_time_and_stable(tmp_path_factory, times, cuts, rows):
    folder = tmp_path_factory.mktemp("sort")
    n = len(times)
    whole = pa.RecordBatch.from_arrays(
        [
            pa.array(v, t)
            for v, t in zip(
                [range(n), times, [0] * n, range(n), range(n)], SCHEMA.arrow.types, strict=True
            )
        ],
        schema=SCHEMA.arrow,
    )
    sorter = EventTimeSorter(folder, rows)
    for start in range(0, n, cuts):
        sorter.add(whole.slice(start, cuts))
    found = [
        pair
        for s in sorter.stretches()
        for pair in zip(s["event_time"].to_pylist(), s["impression_id"].to_pylist(), strict=True)
    ]
    assert found == sorted(zip(times, range(n), strict=True))
    assert list(folder.iterdir()) == []


def test_stretches_are_bounded(tmp_path):
    rng = np.random.default_rng(0)
    n, rows = 20_000, 2_000
    sorter = EventTimeSorter(tmp_path, rows)
    times = rng.integers(0, 10**9, n)
    for start in range(0, n, 500):
        part = [np.arange(500), times[start : start + 500], np.zeros(500)] + [np.arange(500)] * 2
        arrays = [pa.array(v).cast(t) for v, t in zip(part, SCHEMA.arrow.types, strict=True)]
        sorter.add(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA.arrow))
    sizes = Counter(len(stretch) for stretch in sorter.stretches())
    assert sum(size * count for size, count in sizes.items()) == n
    assert max(sizes) < 2 * rows
