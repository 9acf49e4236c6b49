"""The cache of Kafka's classes: made once, and never in the way."""

import threading
from pathlib import Path

import pytest

from errors import UserError
from streaming.kafka_classes import class_cache
from streaming.kafka_jars import cache_dir

JARS = "/jars/a.jar:/jars/b.jar"


class Java:
    """Writes what it saw, unless it does not."""

    def __init__(self, written: bytes | None = b"classes"):
        self.written = written
        self.watched = 0

    def __call__(self, folder: Path, options: list[str]) -> None:
        folder.mkdir()
        (option,) = options
        name, path = option.split("=")
        assert name == "-XX:AOTCacheOutput"
        self.watched += 1
        if self.written is not None:
            Path(path).write_bytes(self.written)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ECDCTR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    cache_dir().mkdir(parents=True)
    return cache_dir()


def made(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.aot"))


def test_it_is_made_once_and_used_from_then_on(folder):
    java, lines = Java(), []
    for _ in range(2):
        (option,) = class_cache(JARS, java, lines.append)
        (path,) = made(folder)
        assert option == f"-XX:AOTCache={path}" and path.read_bytes() == b"classes"
    assert java.watched == 1 and len(lines) == 1 and "once" in lines[0]


def test_other_jars_have_another(folder):
    for jars in (JARS, JARS + ":/jars/c.jar"):
        class_cache(jars, Java(), print)
    assert len(made(folder)) == 2


def test_a_java_that_keeps_nothing_is_asked_once():
    java, lines = Java(written=None), []
    for _ in range(3):
        assert class_cache(JARS, java, lines.append) == []
    assert java.watched == 1 and "starts as before" in lines[-1]


def test_what_a_kill_left_is_removed(folder):
    left = folder / ".preparing-killed" / "kafka"
    left.mkdir(parents=True)
    (left / "classes.aot").write_bytes(b"half")
    class_cache(JARS, Java(), print)
    assert sorted(path.suffix for path in folder.iterdir()) == [".aot", ".lock"]


def test_a_broker_that_does_not_start_is_not_this_one_s_fault():
    def failing(folder: Path, options: list[str]) -> None:
        raise UserError("the embedded Kafka ended at once")

    assert class_cache(JARS, failing, print) == []
    assert class_cache(JARS, Java(), print)


def test_of_somebody_s_own_kafka_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setenv("KAFKA_HOME", "/opt/kafka")
    assert class_cache(JARS, Java(), print) == [] and not made(folder)


def test_a_folder_that_is_not_there_goes_without(folder):
    folder.rmdir()
    assert class_cache(JARS, Java(), print) == []


def test_of_two_at_once_one_makes_it_and_the_other_waits(folder):
    java, lines, found = Java(), [], []
    inside, go_on = threading.Event(), threading.Event()

    def slow(folder: Path, options: list[str]) -> None:
        inside.set()
        assert go_on.wait(30)
        java(folder, options)

    def report(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            go_on.set()

    first = threading.Thread(target=lambda: found.append(class_cache(JARS, slow, report)))
    first.start()
    assert inside.wait(30)
    found.append(class_cache(JARS, java, report))
    first.join(30)
    assert java.watched == 1 and found[0] == found[1] != []
