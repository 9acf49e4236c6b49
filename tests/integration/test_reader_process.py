"""A log read in a process of its own: the same batches as in a thread, whatever becomes of it."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import psutil
import pyarrow as pa
import pytest
from damage_support import write_damaged_log
from log_support import SCHEMA, START_MS, commits_arrive, contents, drain, ids, write_log
from tests_support import ROOT, environ, eventually

from errors import UserError
from streaming.connection import KafkaConfig
from streaming.dead_letters import DeadLetter
from streaming.impressions import Position
from streaming.log_gap import Gap, LogGapError, LogTruncatedError
from streaming.reader import LogReader, ReaderConfig
from streaming.reader_process import NAME, Failure, ReaderProcess
from streaming.writer import RecordWriter

LITTLE = ReaderConfig(prefetch_rows=400)


@pytest.fixture(scope="module")
def writer(kafka: KafkaConfig) -> Iterator[RecordWriter]:
    with RecordWriter(kafka) as writer:
        yield writer


def users(rows: pa.RecordBatch) -> np.ndarray:
    return rows.column("user_id").to_numpy() * 2


def fails_late(rows: pa.RecordBatch) -> np.ndarray:
    if rows.column("impression_id")[0].as_py() >= 200:
        raise LookupError("no such table")
    return users(rows)


def read(kafka: KafkaConfig, topic: str, process: ReaderProcess | None, **more) -> LogReader:
    letters = more.pop("letters", [])
    settings = {
        "batch_size": 100,
        "dead_letters": letters.append,
        "until_end": True,
        "prepare": users,
    }
    return LogReader(kafka, topic, SCHEMA, process=process, **settings | more)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def assert_ends_with_its_parent(program: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ()
    )
    try:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
    finally:
        parent.kill()
        parent.wait()
    # Whose child it has become may be slow to bury it.
    eventually(
        lambda: gone(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10, "its end"
    )


def test_it_reads_what_a_thread_reads(kafka, topics, writer):
    write_damaged_log(writer, topics.ad, 5_000, 500)
    found = {}
    for process in (None, ReaderProcess.fork()):
        letters: list = []
        with read(kafka, topics.ad, process, letters=letters, config=LITTLE) as reader:
            batches = drain(reader)
            found[process is None] = (
                contents(batches),
                [(b.positions, b.watermark, b.appended_at, len(b)) for b in batches],
                [b.prepared.tolist() for b in batches],
                [b.rows.to_pydict() for b in batches],
                [b.rows.schema for b in batches],
                letters,
                [letter.value for letter in letters],
                reader.counts,
                reader.started_at,
                reader.lag(),
            )
        if process is not None:
            assert gone(process.pid)
    for one, other in zip(found[True], found[False], strict=True):
        assert one == other
    assert found[True][5], "there were dead letters"


def test_letters_are_buried_before_any_batch_that_passes_them(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=10, rows=10, partitions=1)
    writer.send(topics.ad, b"bad", partition=0)
    write_log(writer, topics.ad, 100, records=20, rows=10, partitions=1)
    letters: list = []
    with read(kafka, topics.ad, ReaderProcess.fork(), letters=letters, batch_size=10) as reader:
        for batch in drain(reader):
            assert len(letters) >= (batch.positions[0].offset > 10)
    assert [letter.offset for letter in letters] == [10]


def test_only_the_columns_asked_for_come_and_all_of_them_are_prepared(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=10, rows=10)
    asked = ("impression_id", "click")
    for process in (None, ReaderProcess.fork()):
        with read(kafka, topics.ad, process, columns=asked) as reader:
            (batch,) = drain(reader)
        assert batch.rows.schema.names == list(asked)
        np.testing.assert_array_equal(batch.prepared, np.arange(100) % 17 * 2)


def test_finish_has_the_last_word_here(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=10, rows=10)
    for process in (None, ReaderProcess.fork()):
        seen: list[int] = []

        def finish(batch, seen=seen):
            seen.append(os.getpid())
            return batch

        with read(kafka, topics.ad, process, finish=finish) as reader:
            drain(reader)
        assert seen == [os.getpid()]


@pytest.mark.parametrize("killed_after", [0, 7])
def test_killed_hard_the_rest_is_read_here_and_is_the_same(
    kafka, topics, writer, caplog, killed_after
):
    write_damaged_log(writer, topics.ad, 2_000, 200)
    buried: list[DeadLetter] = []
    with read(kafka, topics.ad, None, letters=buried) as reader:
        whole = drain(reader)
    counts = reader.counts
    process = ReaderProcess.fork()
    if not killed_after:
        process.kill()
    letters: list[DeadLetter] = []
    with (
        caplog.at_level(logging.WARNING),
        read(kafka, topics.ad, process, config=LITTLE, letters=letters) as reader,
    ):
        found = drain(reader, batches=killed_after)
        process.kill()
        found += drain(reader)
    # A record that was cut is read whole once more.
    assert 0 <= reader.counts.impressions - counts.impressions < 100
    assert +reader.counts.bad == counts.bad and counts.bad
    assert Counter(x.identity for x in letters) == Counter(x.identity for x in buried)
    assert contents(found) == contents(whole)
    assert [b.prepared.tolist() for b in found] == [b.prepared.tolist() for b in whole]
    told = [r.message for r in caplog.records if "reader's process" in r.message]
    assert told == ["the reader's process ended with status -9; the trainer reads on by itself"]
    assert gone(process.pid)


def test_it_begins_within_a_record_where_a_checkpoint_says(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=50, rows=9)
    with read(kafka, topics.ad, None) as reader:
        batches = drain(reader)
    start = batches[1].positions
    with read(kafka, topics.ad, ReaderProcess.fork(), start=start) as reader:
        assert contents(drain(reader)) == contents(batches[2:])


def test_it_waits_for_the_one_who_learns(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=600, rows=10)
    held: list[int] = []
    with read(kafka, topics.ad, ReaderProcess.fork(), batch_size=10) as reader:
        eventually(lambda: len(reader._shared.batches) == 2, 10, "what is held here")
        found = drain(reader, after=lambda batch: held.append(len(reader._shared.batches)))
    assert len(ids(found)) == 6_000
    assert max(held) <= 2


def test_closing_is_prompt_and_leaves_no_process(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=300, rows=10)
    for batches in (0, 1):
        process = ReaderProcess.fork()
        other = ReaderProcess.fork()  # has inherited the ends of the first one's pipes
        reader = read(kafka, topics.ad, process, config=LITTLE, until_end=False)
        drain(reader, batches=batches)
        begin = time.monotonic()
        reader.close()
        assert time.monotonic() - begin < 1.4  # it was told, not killed
        assert other.wait() == "0"
        assert gone(process.pid)
        reader.close()  # twice does no harm


def test_one_that_hangs_is_killed_at_the_close(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=30, rows=10)
    process = ReaderProcess.fork()
    reader = read(kafka, topics.ad, process, until_end=False)
    drain(reader, batches=1)
    os.kill(process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    reader.close()
    assert time.monotonic() - begin < 2  # the promise
    assert gone(process.pid)


def test_it_stands_back_and_leaves_the_terminals_signals_to_the_trainer(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=100, rows=10)
    process = ReaderProcess.fork()
    with read(kafka, topics.ad, process, config=LITTLE) as reader:
        found = drain(reader, batches=1)
        assert psutil.Process(process.pid).nice() == min(psutil.Process().nice() + 10, 19)
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
        found += drain(reader)
        assert ids(found) == list(range(1_000))
        assert not gone(process.pid)


def test_it_ends_with_the_process_that_forked_it():
    program = (
        "import time\n"
        "from streaming.reader_process import ReaderProcess\n"
        "print(ReaderProcess.fork().pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    assert_ends_with_its_parent(program)


def complains(rows: pa.RecordBatch) -> np.ndarray:
    logging.getLogger("some.where").warning("%d rows, and %s", rows.num_rows, object)
    return users(rows)


def test_its_log_is_the_trainers(kafka, topics, writer, caplog):
    write_log(writer, topics.ad, 0, records=10, rows=10)
    with read(kafka, topics.ad, ReaderProcess.fork(), prepare=complains) as reader:
        drain(reader)
    said = [(r.name, r.message) for r in caplog.records if r.name == "some.where"]
    assert said == [("some.where", "100 rows, and <class 'object'>")]


def test_it_does_without_the_news_of_its_end(kafka, topics, writer, caplog):
    """Whoever started us may have had SIGCHLD ignored, and then nobody's end can be asked for."""
    write_log(writer, topics.ad, 0, records=30, rows=10)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = ReaderProcess.fork()
        with caplog.at_level(logging.WARNING), read(kafka, topics.ad, process) as reader:
            found = drain(reader, batches=1)
            process.kill()
            found += drain(reader)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert ids(found) == list(range(300))
    assert "ended with status unknown" in caplog.text


def test_it_ends_even_while_it_is_stopped():
    program = (
        "import os, signal, time\n"
        "from streaming.reader_process import ReaderProcess\n"
        "pid = ReaderProcess.fork().pid\n"
        f"while open(f'/proc/{{pid}}/comm').read() != '{NAME}\\n': time.sleep(0.01)\n"
        "os.kill(pid, signal.SIGSTOP)\n"
        "print(pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    assert_ends_with_its_parent(program)


def test_commits_follow_from_there(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=40, rows=5)
    group = f"ecdctr-{topics.ad}"
    with read(kafka, topics.ad, ReaderProcess.fork(), group_id=group) as reader:
        batches = drain(reader)

        reader.commit({})  # as of a rank that has learnt nothing yet
        eventually(lambda: commits_arrive(kafka, reader, group, batches[-1]), 15, "the commit")


def test_what_ends_the_reading_there_is_raised_here(kafka, topics, writer):
    write_log(writer, topics.ad, 0, records=30, rows=10, partitions=1)
    reader = read(kafka, topics.ad, ReaderProcess.fork(), start={0: Position(99)})
    with reader, pytest.raises(LogTruncatedError, match="position 99 lies beyond the log's end at"):
        drain(reader)
    process = ReaderProcess.fork()
    reader = read(kafka, topics.ad, process, prepare=fails_late)
    with reader, pytest.raises(LookupError, match="no such table"):
        drain(reader)
    assert gone(process.pid)


def test_a_letter_that_cannot_be_buried_ends_the_reading(kafka, topics, writer):
    writer.send(topics.ad, b"bad", partition=0)
    writer.flush(10)

    def bury(letter: object) -> None:
        raise UserError("Kafka did not take it")

    process = ReaderProcess.fork()
    with (
        read(kafka, topics.ad, process, dead_letters=bury, until_end=False) as reader,
        pytest.raises(UserError, match="Kafka did not take it"),
    ):
        drain(reader, batches=1)
    assert gone(process.pid)


@pytest.mark.parametrize(
    "error",
    [
        UserError("put this right"),
        LogGapError([Gap("ad", 0, 3, 5, START_MS, None)]),
        LogTruncatedError("ad", 1, 7, None),
        KeyError("name"),
    ],
)
def test_exceptions_survive_the_way(error):
    found = pickle.loads(pickle.dumps(Failure.of(error))).error()
    assert (type(found), str(found), found.__dict__) == (type(error), str(error), error.__dict__)
    assert "In the process that reads" in found.__notes__[0]


def test_an_exception_that_cannot_be_pickled_is_told_in_words():
    class Odd(Exception):
        pass

    found = Failure.of(Odd("strange")).error()
    assert (type(found), str(found)) == (RuntimeError, "Odd: strange")
