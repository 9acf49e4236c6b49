"""Jars: pinned, checked, cached. Nothing here touches the network or runs Java."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from errors import UserError
from streaming import kafka_jars
from streaming.kafka_jars import Jar, class_path, fill, pinned

GOOD = b"a jar"
JAR = Jar("org.example", "thing", "1.0", hashlib.sha256(GOOD).hexdigest())


def fetch_good(jar: Jar, folder: Path) -> Path:
    path = folder / jar.filename
    path.write_bytes(GOOD)
    return path


def fetch_bad(jar: Jar, folder: Path) -> Path:
    path = folder / jar.filename
    path.write_bytes(b"something else")
    return path


def fetch_nothing(jar: Jar, folder: Path) -> Path:
    raise ConnectionError("https://somewhere\nis not reached")


def test_the_lock_file_pins_one_kafka_and_its_own_clients():
    jars = pinned()
    ours = {jar.version for jar in jars if jar.group == "org.apache.kafka"}
    assert ours == {kafka_jars.KAFKA_VERSION}
    assert len({jar.filename for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_a_filled_cache_is_not_fetched_again(tmp_path):
    said: list[str] = []
    fill(tmp_path, [JAR], fetch_good, said.append)
    fill(tmp_path, [JAR], fetch_nothing, said.append)
    assert (tmp_path / JAR.filename).read_bytes() == GOOD
    assert len(said) == 1  # the fetching, once


def test_a_read_only_cache_is_enough(tmp_path):
    fill(tmp_path, [JAR], fetch_good, lambda line: None)
    (tmp_path / ".lock").unlink()
    fill(tmp_path, [JAR], fetch_nothing)
    assert not (tmp_path / ".lock").exists()  # nothing was written


def test_a_wrong_checksum_is_refused_and_never_enters_the_cache(tmp_path):
    with pytest.raises(UserError, match="org.example:thing:1.0 came with a checksum other"):
        fill(tmp_path, [JAR], fetch_bad, lambda line: None)
    assert list(tmp_path.glob("*.jar")) == []
    assert list(tmp_path.glob(".fetching-*")) == []


def test_what_was_fetched_is_kept_when_another_fails(tmp_path):
    other = Jar("org.example", "other", "1.0", JAR.sha256)

    def fetch_one_only(jar: Jar, folder: Path) -> Path:
        return fetch_good(jar, folder) if jar == JAR else fetch_nothing(jar, folder)

    with pytest.raises(UserError, match="org.example:other:1.0"):
        fill(tmp_path, [JAR, other], fetch_one_only, lambda line: None)
    fill(tmp_path, [JAR], fetch_nothing)


def test_a_failed_attempt_is_repeated(tmp_path):
    folders: list[Path] = []

    def fetch_at_last(jar: Jar, folder: Path) -> Path:
        folders.append(folder)
        if len(folders) < 3:
            raise ConnectionError
        return fetch_good(jar, folder)

    fill(tmp_path, [JAR], fetch_at_last, lambda line: None)
    assert len(set(folders)) == 3  # half a file of one attempt cannot trip the next


def test_a_damaged_jar_is_named_and_fetched_again(tmp_path):
    (tmp_path / JAR.filename).write_bytes(b"a j")
    said: list[str] = []
    fill(tmp_path, [JAR], fetch_good, said.append)
    assert (tmp_path / JAR.filename).read_bytes() == GOOD
    assert JAR.filename in said[0]


def test_no_jars_and_no_network_names_the_ways_out_in_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        fill(tmp_path, [JAR], fetch_nothing, lambda line: None)
    message = str(caught.value)
    assert "\n" not in message
    for way_out in ("--bootstrap-servers", "KAFKA_HOME", "ECDCTR_CACHE_DIR"):
        assert way_out in message


def test_a_cache_that_cannot_be_written_names_the_ways_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="KAFKA_HOME"):
        fill(tmp_path / "file" / "cache", [JAR], fetch_good)


def fill_and_count(folder: Path, barrier, fetched) -> None:
    def counted(jar: Jar, staging: Path) -> Path:
        with fetched.get_lock():
            fetched.value += 1
        return fetch_good(jar, staging)

    barrier.wait(30)
    fill(folder, [JAR], counted, lambda line: None)
    assert JAR.is_at(folder / JAR.filename)


def test_processes_that_fill_at_once_fetch_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, fetched = context.Barrier(3), context.Value("i", 0)
    workers = [
        context.Process(target=fill_and_count, args=(tmp_path, barrier, fetched)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert fetched.value == 1


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("ECDCTR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert kafka_jars.cache_dir().parent == tmp_path / "xdg" / "ecdctr"
    monkeypatch.setenv("ECDCTR_CACHE_DIR", str(tmp_path / "own"))
    assert kafka_jars.cache_dir().parent == tmp_path / "own"


def test_an_unpacked_kafka_is_used_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(UserError, match="KAFKA_HOME"):
        class_path()
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.3.1.jar").touch()
    assert class_path() == os.path.join(tmp_path, "libs", "*")
