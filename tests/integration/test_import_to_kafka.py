"""A real log, imported into a real topic: every impression once, readable by its own schema."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from config import Config
from errors import UserError
from settings import load
from streaming.importer import command
from streaming.reader import LogReader

OPEN_BANDIT = Path(__file__).parents[1] / "data" / "open_bandit"


@pytest.fixture
def run(kafka, topics, tmp_path):
    def invoke(*more):
        arguments = [str(OPEN_BANDIT / "random_all.csv.gz"), "--to-kafka", "ad"]
        arguments += ["--mapping", str(OPEN_BANDIT / "mapping.toml")]
        arguments += ["--bootstrap-servers", kafka.bootstrap_servers]
        arguments += ["--set", f"topics.ad={topics.ad}", *map(str, more)]
        result = CliRunner().invoke(command, arguments)
        if isinstance(result.exception, UserError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return invoke


def test_import_to_kafka(run, kafka, topics, tmp_path):
    assert "10,000 impressions, 38 clicks" in run("--out", tmp_path / "log")

    schema = load(Config, tmp_path / "log" / "schema.toml", environ={}).config.impressions
    letters = []
    reader = LogReader(
        kafka, topics.ad, schema, batch_size=1_000, until_end=True, dead_letters=letters.append
    )
    ids, clicks, last = set(), 0, 0
    while not reader.finished:
        batch = reader.next_batch(timeout=20)
        if batch is None:
            continue
        hour = batch.rows.column("event_time")[0].as_py() // 3_600_000
        assert hour >= last
        last = hour
        ids |= set(batch.rows.column("impression_id").to_pylist())
        clicks += sum(batch.rows.column("click").to_pylist())
    reader.close()
    assert ids == set(range(10_000))
    assert clicks == 38
    assert letters == []

    # A second import would be learnt from twice: it needs a word.
    with pytest.raises(UserError, match="holds records already"):
        run("--out", tmp_path / "again")
    assert "10,000 impressions" in run("--out", tmp_path / "again", "--append")
