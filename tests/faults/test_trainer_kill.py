"""kill -9 of the trainer at random moments: the end is the same to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import numpy as np
import pytest
from tests_support import ECDCTR, ROOT, environ
from trainer_support import Home, assert_same_end, wait_until

AT_START, AT_RANDOM, WHILE_WRITING = 4, 12, 4


def moments(rng: np.random.Generator, last_step: int) -> list[tuple[str, int]]:
    """(how, step) of every kill: steps rise over the whole run, starts are strewn between."""
    kinds = ["random"] * AT_RANDOM + ["writing"] * WHILE_WRITING
    edges = np.linspace(1, 0.75 * last_step, len(kinds) + 1)
    steps = rng.uniform(edges[:-1], edges[1:]).astype(int).tolist()
    plan = list(zip(rng.permutation(kinds).tolist(), steps, strict=True))
    for at in rng.integers(0, AT_RANDOM, AT_START).tolist():
        plan.insert(at, ("start", 0))
    return plan


def wait_for_moment(home: Home, how: str, step: int, undisturbed, rng) -> None:
    if how == "start":
        time.sleep(rng.uniform(0, undisturbed.start_seconds))
    elif how == "random":
        wait_until(lambda: home.reached() >= step, 60, f"step {step}")
        time.sleep(rng.uniform(0, undisturbed.cycle_seconds))
    else:
        wait_until(lambda: any(s >= step for s in home.writing()), 60, "a checkpoint", 0.0005)


@pytest.mark.timeout(240)
def test_20_kills_leave_no_trace(make_home, undisturbed):
    rng = np.random.default_rng(20)
    home = make_home()
    cut_short, newest = 0, [0]
    for how, step in moments(rng, undisturbed.home.newest_step()):
        life = home.live()
        wait_for_moment(home, how, step, undisturbed, rng)
        life.signal(signal.SIGKILL)
        assert life.end() == -signal.SIGKILL, life.said()
        cut_short += len(home.writing())
        newest.append(home.newest_step())
    assert home.lives == AT_START + AT_RANDOM + WHILE_WRITING == 20
    assert cut_short >= WHILE_WRITING - 1, "checkpoints were cut short by a kill"
    assert newest == sorted(newest), "no checkpoint was lost"
    assert len(set(newest)) >= 6, "there was progress between the kills"
    home.finish()
    assert not home.writing()
    repeated = assert_same_end(home, undisturbed)
    assert repeated > 0, "kills made trainers repeat what no checkpoint had"


@pytest.mark.slow  # forks of the same command line are killed above
@pytest.mark.timeout(180)
def test_a_process_started_from_the_command_line_is_killed(make_home, undisturbed):
    home = make_home()
    process = subprocess.Popen(
        [*ECDCTR, *home.arguments()],
        env=environ(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: home.newest_step() >= 30, 120, "some checkpoints")
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    home.finish()
    assert_same_end(home, undisturbed)
