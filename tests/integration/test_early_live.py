"""Early periods and hand-downs, asked for on a real Kafka of trainers that are killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
from hand_down_support import announced, told
from log_support import START_MS
from nursery_support import Life
from tests_support import eventually
from tpm_support import BUCKETS, KINDS, TPM_SETTINGS, sent_by
from trainer_support import SETTINGS, Home, fresh_topics, wait_until, write_impressions

from monitoring.control_sender import ControlSender
from streaming.control import Ask, Request
from streaming.small_topic import SmallTopic
from streaming.topic_admin import create_topics
from streaming.writer import RecordWriter
from trainers.control import receiver
from trainers.early import EARLY, Inbox

PERIOD_MS = 8_000_000  # 8,000 impressions; those of trainer_support begin with one
END = START_MS + PERIOD_MS
FIRST, PORTION, LAST = 320, 96, 8_400  # impressions
HOURS = PERIOD_MS / 3_600_000

SETTINGS_OF = {
    "tpm": TPM_SETTINGS.split("[history]")[0]
    + f"[history]\nperiod_hours = {HOURS!r}\nbuckets = {BUCKETS}\n",
    "cpm": SETTINGS.replace('device = "cpu"', 'device = "cpu"\ntransfer = "delta"')
    + f"""
[cpm]
batch_size = 32
metrics_window = 1000
device = "cpu"
mode = "weekly"
window_hours = {HOURS!r}
[cpm.checkpoint]
every_batches = 3
""",
}
ASK: dict[str, Ask] = {"tpm": "period", "cpm": "hand-down"}
FROM_SCRATCH = ("--set", "cpm.mode=scratch", "--set", "actr.transfer=reinitialize")


def request(ask: Ask, seconds: int = 50) -> Request:
    return Request(ask, START_MS + 1_000 * seconds, "natural", "log_loss", "a test")


@pytest.fixture
def writer(kafka):
    with RecordWriter(kafka) as writer:
        yield writer


@pytest.fixture
def make_home(nursery, kafka, writer, tmp_path):
    """A level with the beginning of a log, and requests that were there before it."""

    def make(level: str) -> Home:
        topics = fresh_topics()
        create_topics(kafka, topics)
        of_others = [request(ask).encode() for name, ask in ASK.items() if name != level]
        for value in (b"nonsense", *of_others, *[request(ASK[level]).encode()] * 2):
            writer.send(topics.control, value, partition=0)
        write_impressions(writer, topics.natural, 0, FIRST)
        return Home(nursery, kafka, topics, tmp_path, SETTINGS_OF[level], level)

    return make


def go_on(home: Home, writer: RecordWriter, until: Callable[[], bool]) -> int:
    """Write portion after portion, each when the one before is in a checkpoint; the next id."""
    at, step = FIRST, 0
    while not until():
        wait_until(lambda: home.newest_step() > step, 60, f"a checkpoint after {step}")  # noqa: B023
        step = home.newest_step()
        assert at < LAST - 400, "nothing became of the request"
        at = write_impressions(writer, home.topics.natural, at, PORTION)
    return at


def kill(life: Life) -> None:
    life.signal(signal.SIGKILL)
    assert life.end() == -signal.SIGKILL, life.said()


def accepted(home: Home) -> int:
    return home.newest().progress.marks.get(EARLY, 0) if home.steps() else 0


def boundaries(home: Home) -> list[int]:
    """Distinct ones at which it sent or handed down something; what is repeated is the same."""
    if home.level == "tpm":
        sent, _ = sent_by(home.kafka, home.topics)
        ends = sorted({end for end, _, _ in sent})
        assert len(sent) == len(ends) * len(KINDS) * BUCKETS
        return ends
    made = [h for h in announced(home) if h.kind == "delta"]
    by_boundary = {h.boundary: replace(h, location="") for h in made}
    assert all(by_boundary[h.boundary] == replace(h, location="") for h in made)
    assert [h.since for h in by_boundary.values()] == [0, *list(by_boundary)[:-1]]
    return list(by_boundary)


@pytest.mark.parametrize("level", ["tpm", "cpm"])
@pytest.mark.timeout(240)
def test_it_is_obeyed_once_whoever_is_killed(level, make_home, writer):
    home = make_home(level)
    life = home.live(until_end=False)
    at = go_on(home, writer, lambda: accepted(home) > 0)
    early = accepted(home)
    kill(life)
    assert START_MS + 50_000 < early < END
    write_impressions(writer, home.topics.natural, at, LAST - at)
    # Without a checkpoint in between: this life acts, and is killed before one says so.
    life = home.live("--set", f"{level}.checkpoint.every_batches=100000", until_end=False)
    wait_until(lambda: len(lines_of(home)) > 0, 60, "the early boundary", 0.001)
    kill(life)
    home.finish()
    assert boundaries(home) == [early, END]
    assert len(lines_of(home)) >= 3, "a kill made it act again"
    assert home.newest().progress.marks[EARLY] == early
    (taken,) = {line for line in told(home) if "was asked for" in line}
    assert f"an early {ASK[level]} was asked for (a test): there will be one at 20" in taken


def lines_of(home: Home) -> list[str]:
    """What it said of periods closed, or hand-downs."""
    kinds = ("period up to", "handed down what")
    return [line for line in told(home) if line.startswith(kinds)]


@pytest.mark.timeout(120)
def test_a_cpm_from_scratch_refuses_in_one_line(make_home, writer):
    home = make_home("cpm")
    life = home.live(*FROM_SCRATCH, until_end=False)
    go_on(home, writer, lambda: any("refused" in line for line in told(home)))
    life.signal(signal.SIGTERM)
    assert life.end() == 0, life.said()
    (refused,) = [line for line in told(home) if "was asked for" in line]
    assert refused.endswith("refused, cpm.mode = scratch hands down whole windows only")
    assert accepted(home) == 0


def test_what_the_monitor_asks_arrives(kafka):
    topics, inbox, other = fresh_topics(), Inbox(), Inbox()
    create_topics(kafka, topics)
    sent = [request(ask, seconds) for seconds in (1, 2) for ask in ("period", "hand-down")]
    with (
        SmallTopic(kafka, topics.control, "requests", receiver("period", inbox)),
        SmallTopic(kafka, topics.control, "requests", receiver("hand-down", other)),
        ControlSender(lambda: RecordWriter(kafka), topics.control) as sender,
    ):
        for one in sent:
            sender.send(one)
        eventually(lambda: not sender.waiting, 30, "all acknowledged")
        eventually(lambda: len(inbox.waiting() + other.waiting()) == 4, 30, "all read")
    assert inbox.waiting() == sent[::2] and other.waiting() == sent[1::2]
