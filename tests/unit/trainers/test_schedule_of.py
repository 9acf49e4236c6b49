"""Which trainer obeys whom, and what it says."""

import contextlib

import pytest
from prometheus_client import CollectorRegistry

from config import Config
from streaming.control import Request
from trainers.checkpoint import Progress
from trainers.control import receiver, schedule_of, words
from trainers.early import Inbox, Outcome
from trainers.levels import level
from trainers.ranks import Ranks
from trainers.schedule import Schedule

PERIOD = Request("period", 1_700_000_000_000, "natural", "log_loss", "log_loss, 22:13")
NOBODY = None  # no Kafka, no saver: who does not ask needs none


def schedule(name, **settings):
    config = Config.model_validate(settings)
    with contextlib.ExitStack() as stack:
        return schedule_of(
            level(name, config),
            config,
            NOBODY,
            Ranks(),
            Progress(),
            NOBODY,
            CollectorRegistry(),
            stack,
        )


def test_a_ctr_has_no_boundaries_of_its_own():
    assert schedule("actr") is None


@pytest.mark.parametrize("name", ["tpm", "cpm"])
def test_an_aligned_level_obeys_nobody(name):
    found = schedule(name, **{name: {"align": True}})
    assert type(found) is Schedule


def test_only_what_is_asked_of_it_gets_into_the_inbox():
    inbox = Inbox()
    take = receiver("hand-down", inbox)
    take(None, PERIOD.encode())
    assert not inbox.waiting()
    receiver("period", inbox)(None, PERIOD.encode())
    assert inbox.waiting() == [PERIOD]
    for value in (b"nonsense", None):
        with pytest.raises(ValueError):
            take(None, value)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.TAKEN, "there will be one at 2023-11-14 23:00"),
        (Outcome.REFUSED, "refused, it cannot"),
        (Outcome.POSTPONED, "put off, the checkpoint with it could not be written"),
    ],
)
def test_what_it_says(outcome, expected):
    line = words(outcome, PERIOD, 1_700_002_800_000, "it cannot")
    assert line == f"an early period was asked for (log_loss, 22:13): {expected}"
