import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replay_support import small_log

from errors import UserError
from streaming.impressions import ImpressionSchema
from trainers.replay.log import AD, DOMAINS, NATURAL, RecordedLog, merged, true_probabilities

SCHEMA = ImpressionSchema()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("log") / "market")


@pytest.fixture(scope="module")
def log(path):
    return RecordedLog(path, SCHEMA)


def column(batches, name):
    return np.concatenate([batch.rows.column(name).to_numpy() for batch in batches])


@pytest.mark.parametrize("domains", [(AD,), (NATURAL,), DOMAINS])
def test_batches_are_the_whole_log_in_order_of_event_time(log, domains):
    batches = list(log.batches(domains, 100))
    assert {len(batch) for batch in batches[:-1]} == {100}
    times, ids = column(batches, "event_time"), column(batches, "impression_id")
    assert (np.diff(times) >= 0).all()
    assert len(ids) == len(set(ids.tolist())) == sum(log.spans[d].rows for d in domains)
    newest = [batch.rows.column("event_time").to_numpy().max() for batch in batches]
    assert [batch.watermark for batch in batches] == newest


def test_impressions_of_both_domains_say_which(log):
    rows = column(log.batches(DOMAINS, 100), "domain")
    assert (rows == DOMAINS.index(AD)).sum() == log.spans[AD].rows
    ads = set(column(log.batches((AD,), 100), "impression_id").tolist())
    both = list(log.batches(DOMAINS, 100))
    assert set(column(both, "impression_id")[column(both, "domain") == 1].tolist()) == ads


def test_partitions_hold_users_together_and_everything_comes(log):
    batches = list(log.batches((AD,), 50, partitions=3))
    ids = column(batches, "impression_id")
    assert len(set(ids.tolist())) == log.spans[AD].rows
    partition = np.concatenate([batch.source.partition for batch in batches])
    homes = set(zip(column(batches, "user_id").tolist(), partition.tolist(), strict=True))
    assert len(homes) == len({user for user, _ in homes})
    again = list(log.batches((AD,), 50, partitions=3))
    assert (column(again, "impression_id") == ids).all()


def test_the_truth_is_found(log):
    ids = column(log.batches((AD,), 500), "impression_id")
    p = true_probabilities(log, ids)
    assert p is not None and ((p > 0) & (p < 1)).all()
    assert true_probabilities(log, np.array([2**62])) is None


def test_streams_of_ties_and_of_unequal_length_are_merged():
    def stream(times, name):
        rows = [{"event_time": t, "who": name} for t in times]
        return [pa.RecordBatch.from_pylist(rows[i : i + 2]) for i in range(0, len(rows), 2)]

    one, other = stream([1, 1, 3, 3, 3, 9], "a"), stream([1, 3, 4, 5, 6, 7, 8], "b")
    found = [row for rows in merged([iter(one), iter(other)]) for row in rows.to_pylist()]
    times = [row["event_time"] for row in found]
    assert times == sorted([1, 1, 3, 3, 3, 9, 1, 3, 4, 5, 6, 7, 8])
    assert [row["who"] for row in found if row["event_time"] == 1] == ["a", "a", "b"]


def test_refusals_name_the_way_out(path, tmp_path):
    with pytest.raises(UserError, match="ecdctr simulate"):
        RecordedLog(tmp_path, SCHEMA)
    file = tmp_path / "ad" / "0.parquet"
    file.parent.mkdir()
    table = pq.read_table(path / "ad" / "00000000.parquet")
    pq.write_table(table.take(pa.array(range(len(table) - 1, -1, -1))), file)
    with pytest.raises(UserError, match="goes back in event time"):
        list(RecordedLog(tmp_path, SCHEMA).batches((AD,), 10))
    pq.write_table(table.drop_columns(["user_id"]), file)
    with pytest.raises(UserError, match="user_id.*schema.toml"):
        RecordedLog(tmp_path, SCHEMA)
    file.write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot read"):
        RecordedLog(tmp_path, SCHEMA)
