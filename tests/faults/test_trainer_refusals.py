"""What a person can put right is said in one line, with status 2."""

from __future__ import annotations

import shutil
import signal
import socket
from dataclasses import replace

import pytest
from nursery_support import Life
from trainer_support import BATCH, SETTINGS, Home, free_port, fresh_topics, wait_until

from streaming.topic_admin import create_topics


def assert_refused(life: Life, *words: str) -> None:
    assert life.end(60) == 2, life.said()
    (line,) = life.complaints()
    assert line.startswith("ecdctr: ")
    for word in words:
        assert word in line
    assert len(line) < 600


def copy_of(home: Home, other: Home) -> Home:
    """``other``'s home with the checkpoints of ``home``."""
    shutil.copytree(home.store, other.store)
    return other


def test_a_run_directory_that_is_a_file(make_home, tmp_path):
    (tmp_path / "file").write_text("")
    life = make_home().live("--run-dir", str(tmp_path / "file"))
    assert_refused(life, str(tmp_path / "file"), "Not a directory", "--run-dir")


@pytest.mark.parametrize("name", ["checkpoints", "processes"])
def test_a_folder_that_cannot_be_written(make_home, name):
    home = make_home()
    (home.run_dir / name).write_text("in the way")
    assert_refused(home.live(), str(home.run_dir / name))


def test_no_kafka_configured_and_none_embedded(make_home):
    life = make_home().live("--bootstrap-servers", "")
    assert_refused(life, "no Kafka", "--bootstrap-servers", "ecdctr kafka")


@pytest.fixture(scope="module", autouse=True)
def waiting_in_vain(nursery, mortal_kafka, tmp_path_factory) -> tuple[Life, str]:
    """Waits for a Kafka that is not there for as long as the other tests last, to save time."""
    home = Home(nursery, mortal_kafka.config, fresh_topics(), tmp_path_factory.mktemp("vain"))
    address = f"127.0.0.1:{free_port()}"
    return home.live("--bootstrap-servers", address), address


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        ('name = "age"', 'name = "size"', ("impressions.features", "age", "size")),
        ("dim = 8", "dim = 16", ("actr.model.dim: 8 then, 16 now",)),
        ("hidden = [16]", "hidden = [32]", ("actr.model.hidden",)),
    ],
)
def test_other_settings_than_the_checkpoints(make_home, undisturbed, then, now, words):
    home = copy_of(undisturbed.home, make_home(settings=SETTINGS.replace(then, now)))
    assert_refused(home.live(), *words)


def test_another_topic_than_the_checkpoints(make_home, undisturbed):
    home = make_home()
    home = copy_of(undisturbed.home, replace(home, topics=fresh_topics()))
    assert_refused(home.live(), undisturbed.home.topics.ad, home.topics.ad)


def test_nothing_but_damaged_checkpoints(make_home, undisturbed):
    home = copy_of(undisturbed.home, make_home())
    for data in home.store.glob("*/*.distcp"):
        data.write_bytes(data.read_bytes()[:-1])
    assert_refused(home.live(), "every checkpoint", str(home.store), "does not match")
    assert home.steps() == undisturbed.home.steps(), "nothing was thrown away"


def test_a_second_trainer_over_the_same_run(make_home):
    home = make_home()
    first = home.live(until_end=False)
    wait_until(home.reached, 60, "a first checkpoint")
    assert_refused(home.live(until_end=False), "another trainer", str(home.store))
    first.signal(signal.SIGTERM)
    assert first.end() == 0 and not first.complaints()


def test_a_topic_that_does_not_exist_is_made(make_home):
    home = replace(make_home(), topics=fresh_topics())
    home.write_settings(SETTINGS)
    life = home.finish()
    assert not life.complaints() and not home.steps()


@pytest.mark.parametrize(
    ("settings", "partitions", "words"),
    [
        (SETTINGS, 1, ("has 1 partitions", "2 ranks")),
        (SETTINGS.replace(f"batch_size = {BATCH}", "batch_size = 63"), 2, ("63", "2 ranks")),
    ],
)
def test_ranks_that_have_nothing_to_share(make_home, mortal_kafka, settings, partitions, words):
    topics = fresh_topics().model_copy(update={"partitions": partitions})
    create_topics(mortal_kafka.config, topics, levels=("actr",))
    home = replace(make_home(), topics=topics)
    home.write_settings(settings)
    for life in home.live_ranks(2):
        assert_refused(life, *words)  # every rank, however soon the other one has ended


def test_metrics_port_that_is_taken(make_home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        life = make_home().live("--set", f"monitoring.port={port}")
        assert_refused(life, "monitoring.port", str(port))


def test_kafka_is_not_up(waiting_in_vain):
    life, address = waiting_in_vain
    assert_refused(life, "no Kafka", address, "refused")
