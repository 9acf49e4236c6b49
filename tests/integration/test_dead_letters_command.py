"""Dead letters in a real Kafka: seen, counted, repaired, sent back exactly once."""

import json

import numpy as np
import orjson
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from kafka import TopicPartition

from streaming.codec import decode, encode
from streaming.connection import KafkaConfig
from streaming.dead_letters import dead_letter
from streaming.dead_letters_command import command, read_letters
from streaming.dead_letters_topic import Resender
from streaming.import_mapping import schema_toml
from streaming.impressions import ImpressionSchema
from streaming.kafka_clients import consumer
from streaming.topics import TopicsConfig
from streaming.writer import RecordWriter

SCHEMA = ImpressionSchema()
NOW = 1_700_000_000_000


def impressions(n: int) -> pa.RecordBatch:
    def column(field: pa.Field) -> pa.Array:
        if pa.types.is_list(field.type):
            return pa.array([[1, 2]] * n, field.type)
        base = {"event_time": NOW, "click": 0}.get(field.name, 10)
        step = 0 if field.name == "click" else 1
        return pa.array(base + step * np.arange(n), field.type)

    return pa.RecordBatch.from_arrays([column(f) for f in SCHEMA.arrow], schema=SCHEMA.arrow)


def spoilt(n: int, row: int) -> bytes:
    ids = impressions(n).column("user_id").to_numpy().copy()
    ids[row] = -1
    batch = impressions(n)
    return encode(batch.set_column(3, batch.schema.field(3), pa.array(ids)))


@pytest.fixture
def values(kafka: KafkaConfig, topics: TopicsConfig) -> dict[int, bytes]:
    """Records by offset, whose dead letters are in the topic, the first one's twice."""
    large = pa.RecordBatch.from_pydict(
        {"user_id": ["x" * 999_000]}, schema=pa.schema({"user_id": pa.string()})
    )
    found = {0: spoilt(6, 3), 1: b'{"torn', 2: encode(large), 3: spoilt(1, 0)}
    with RecordWriter(kafka) as writer:
        for offset, value in [*found.items(), (0, found[0])]:
            headers = [("trace", b"t")]
            for bad in decode(value, headers, NOW, SCHEMA).bad:
                letter = dead_letter(bad, topics.ad, 1, offset, b"key", headers)
                for body, wire_headers in letter.records():
                    writer.send(topics.dead_letter, body, b"key", wire_headers)
        writer.send(topics.dead_letter, b"who am I")
        writer.flush()
    return found


@pytest.fixture
def run(kafka: KafkaConfig, topics: TopicsConfig):
    def invoke(*arguments: str, **settings: str) -> Result:
        own = {"topics.dead_letter": topics.dead_letter, **settings}
        flags = [x for key, value in own.items() for x in ("--set", f"{key}={value}")]
        name, *rest = arguments
        servers = ["--bootstrap-servers", kafka.bootstrap_servers]
        result = CliRunner().invoke(command, [name, *servers, *flags, *rest])
        assert result.exit_code == 0, result.output
        return result

    return invoke


def returned(kafka: KafkaConfig, topics: TopicsConfig) -> list:
    """What is in the ad topic now."""
    client = consumer(kafka, isolation_level="read_committed", consumer_timeout_ms=2_000)
    places = [TopicPartition(topics.ad, p) for p in range(topics.partitions)]
    client.assign(places)
    client.seek_to_beginning(*places)
    found = list(client)
    client.close()
    return found


def listed(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_list_and_count(run, values, topics):
    rows = listed(run("list", "--json"))
    assert [(r["topic"], r["partition"], r["offset"], r["rows"], r["reason"]) for r in rows] == [
        (topics.ad, 1, 0, "3", "bad-id"),
        (topics.ad, 1, 1, "", "undecodable-json"),
        (topics.ad, 1, 2, "", "missing-column"),
        (topics.ad, 1, 3, "", "bad-id"),
    ]
    assert rows[2]["bytes"] == len(values[2]) > 900_000
    assert [r["offset"] for r in listed(run("list", "--json", "--reason", "bad-id"))] == [0, 3]
    text = run("list", "--limit", "1")
    assert "3 more" in text.stdout
    assert "1 records are not dead letters" in text.stderr
    counts = {r["reason"]: r for r in json.loads(run("count", "--json").stdout)}
    assert counts["bad-id"] == {"reason": "bad-id", "letters": 2, "impressions": 2, "resent": 0}
    assert sum(r["letters"] for r in counts.values()) == 4


def test_resend_sends_what_a_new_schema_takes(run, values, kafka, topics, tmp_path):
    said = run("resend").stdout
    assert "0 sent back, 4 still bad\njudged by the default schema; --config FILE" in said
    assert returned(kafka, topics) == []

    # The large record holds user ids of text only: a schema cannot help it. The others
    # lack nothing but a repair, so add one that only the old schema refused.
    lacking = encode(impressions(3).drop_columns(["hour"]))
    (bad,) = decode(lacking, [], NOW, SCHEMA).bad
    with RecordWriter(kafka) as writer:
        ((body, headers),) = dead_letter(bad, topics.ad, 2, 9, None, []).records()
        writer.send(topics.dead_letter, body, None, headers)
        writer.flush()
    features = tuple(
        f.model_copy(update={"optional": f.optional or f.name == "hour"}) for f in SCHEMA.features
    )
    new = tmp_path / "new.toml"
    new.write_text(schema_toml(SCHEMA.model_copy(update={"features": features})))

    assert "0 sent back, 1 still bad" in run("resend", "--reason", "undecodable-json").stdout
    said = run("resend", "--config", str(new)).stdout
    assert f"1 sent back, 4 still bad\njudged by the schema of {new}; --config" in said
    (record,) = returned(kafka, topics)
    assert (record.partition, record.key, record.value) == (2, None, lacking)


def repair(directory) -> None:
    """Give the exported rows a good user, and the torn object its rest."""
    for path in directory.glob("*.bin"):
        meta = json.loads(path.with_suffix(".json").read_text())
        if meta["reason"] == "bad-id":
            table = pa.ipc.open_stream(path.read_bytes()).read_all()
            fixed = table.set_column(3, "user_id", pa.array([77] * len(table)))
            path.write_bytes(encode(fixed.combine_chunks().to_batches()[0]))
        if meta["reason"] == "undecodable-json":
            path.write_bytes(orjson.dumps(impressions(1).to_pylist()[0]))


def test_repaired_letters_are_sent_back_exactly_once(run, values, kafka, topics, tmp_path):
    assert "4 letters written" in run("export", str(tmp_path / "out")).stdout
    repair(tmp_path / "out")
    source = ("resend", "--from", str(tmp_path / "out"))
    assert "3 would be sent back, 1 still bad" in run(*source, "--dry-run").stdout
    assert returned(kafka, topics) == []

    assert "3 sent back, 1 still bad" in run(*source).stdout
    assert "0 sent back, 1 still bad" in run(*source).stdout

    records = returned(kafka, topics)
    assert len(records) == 3
    for record in records:
        assert record.partition == 1
        assert record.key == b"key"
        assert dict(record.headers)["original-trace"] == b"t"
        assert decode(record.value, record.headers, record.timestamp, SCHEMA).bad == []
    assert {dict(r.headers)["resent-from"] for r in records} == {
        f"{topics.ad}/1/0/bad-id/3".encode(),
        f"{topics.ad}/1/1/undecodable-json/".encode(),
        f"{topics.ad}/1/3/bad-id/".encode(),
    }
    assert [r["offset"] for r in listed(run("list", "--json"))] == [2]
    everything = listed(run("list", "--json", "--all"))
    assert [r["resent"] for r in everything] == [True, True, False, True]
    assert "1 letters written" in run("export", str(tmp_path / "again")).stdout


def test_resend_killed_before_its_end_leaves_nothing_and_is_done_again(
    run, values, kafka, topics, tmp_path, monkeypatch
):
    run("export", str(tmp_path))
    repair(tmp_path)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # Everything was written, nothing committed or aborted: what kill -9 leaves.
        patch.setattr("kafka.KafkaProducer.commit_transaction", dies)
        patch.setattr("kafka.KafkaProducer.abort_transaction", lambda *_: None)
        with Resender(kafka, topics.dead_letter) as resender, pytest.raises(KeyboardInterrupt):
            resender.send(read_letters(tmp_path), lambda letter: None)
    assert "3 sent back, 1 still bad" in run("resend", "--from", str(tmp_path)).stdout
    assert len(returned(kafka, topics)) == 3
