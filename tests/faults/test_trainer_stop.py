"""Ctrl-C and SIGTERM at any moment: status 0, a checkpoint, nothing repeated."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tests_support import ECDCTR, ROOT, environ
from trainer_support import assert_same_end, wait_until


@pytest.mark.timeout(180)
def test_stopped_at_random_moments_nothing_is_done_twice(make_home, undisturbed):
    rng = np.random.default_rng(6)
    home = make_home()
    steps = np.sort(rng.integers(1, 120, 6)).tolist()
    stopped_at = []
    for step, number in zip(steps, [signal.SIGTERM, signal.SIGINT] * 3, strict=True):
        life = home.live()
        # The life before may have passed the step already: this one must have begun, too.
        wait_until(lambda life=life: life.listens, 60, "a trainer that listens")
        wait_until(lambda step=step: home.reached() >= step, 60, f"step {step}")
        time.sleep(rng.uniform(0, undisturbed.cycle_seconds))
        life.signal(number)
        assert life.end() == 0 and not life.complaints()
        assert not home.writing() and not list((home.run_dir / "processes").iterdir())
        stopped_at.append(home.newest_step())
    assert len(set(stopped_at)) >= 3 and stopped_at[-1] < undisturbed.home.newest_step()
    home.finish()
    assert assert_same_end(home, undisturbed) == 0, "every stop left a checkpoint of the end"


def test_stopped_before_the_first_batch(make_home):
    """At random moments of the start: whatever the moment, the end is prompt and in order."""
    rng = np.random.default_rng(3)
    home = make_home()
    for _ in range(4):
        life = home.live(until_end=False)
        time.sleep(rng.uniform(0, 0.6))
        life.signal(signal.SIGTERM)
        status = life.end(20)
        # Python itself may not have got as far as to listen.
        assert status in (0, -signal.SIGTERM) and not life.complaints()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_torch_is_being_imported(make_home, number):
    home = make_home()
    process = subprocess.Popen(
        [*ECDCTR, *home.arguments()],
        env=environ(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    try:
        wait_until(lambda: "libtorch" in maps.read_text(), 60, "the import of torch")
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")
    assert not home.store.exists()


def test_stopped_while_kafka_does_not_answer(make_home):
    home = make_home()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        life = home.live("--bootstrap-servers", address)
        mute.settimeout(30)
        connection, _ = mute.accept()  # now it waits for an answer
        life.signal(signal.SIGTERM)
        assert life.end(5) == 0 and not life.complaints()
        connection.close()


@pytest.mark.timeout(120)
def test_a_process_started_from_the_command_line_is_stopped(make_home, undisturbed):
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
        wait_until(lambda: home.newest_step() >= 20, 90, "some checkpoints")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")
    home.finish()
    assert assert_same_end(home, undisturbed) == 0
