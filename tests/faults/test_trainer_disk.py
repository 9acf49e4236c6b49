"""A disk that fills up, and one that forgets: never a corrupt checkpoint, never a lost state."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from nursery_support import Life
from trainer_support import Home, assert_same_end, wait_until

from monitoring.processes import running
from trainers.checkpoint import verify

SMALL = 40_000  # bytes: less than a checkpoint's largest file


@contextmanager
def size_limit(home: Home, life: Life) -> Iterator[None]:
    """The kernel refuses to let the trainer write a file of a checkpoint's size."""
    soft, hard = resource.prlimit(life.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (SMALL, hard))
    yield
    with suppress(ProcessLookupError):  # it may have ended meanwhile
        resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def filler(home: Home, life: Life) -> Iterator[None]:
    """Somebody else's file takes all the room that there is."""
    path = home.store / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4_096)
        except OSError:
            pass
    yield
    path.unlink()


@pytest.fixture
def small_disk(make_home) -> Iterator[Home]:
    home = make_home()
    home.store.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(home.store)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of its own takes the right to mount")
    yield home
    subprocess.run(["umount", "-l", str(home.store)], check=True)


def metric(home: Home, name: str) -> float:
    (process,) = running(home.run_dir)
    with urllib.request.urlopen(process.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def goes_on(home: Home, full: Callable, undisturbed) -> None:
    life = home.live()
    wait_until(lambda: home.newest_step() >= 10, 60, "a first checkpoint")
    with full(home, life):
        before = home.newest_step()
        wait_until(lambda: life.said().count(" failed: ") >= 2, 60, "two failed checkpoints")
        assert metric(home, "ecdctr_checkpoint_failures_total") >= 2
        assert home.newest_step() <= before + 6, "no checkpoint after the disk was full"
        for path in home.store.glob("step-*"):
            verify(path)
    assert life.end(90) == 0, life.said()
    failures = life.complaints()
    assert all("checkpoint at step" in line for line in failures), life.said()
    assert assert_same_end(home, undisturbed) == 0


@pytest.mark.timeout(120)
def test_a_file_that_cannot_be_written_does_not_stop_the_trainer(make_home, undisturbed):
    goes_on(make_home(), size_limit, undisturbed)


@pytest.mark.timeout(120)
def test_a_full_disk_does_not_stop_the_trainer(small_disk, undisturbed):
    goes_on(small_disk, filler, undisturbed)


def test_a_log_that_takes_no_more_does_not_stop_the_trainer(make_home, undisturbed):
    home = make_home()
    life = home.live(told="/dev/full")
    assert life.end(90) == 0 and not life.complaints(), life.said()
    assert assert_same_end(home, undisturbed) == 0


@pytest.mark.timeout(120)
def test_the_last_checkpoint_cannot_be_written(make_home, undisturbed):
    home = make_home()
    life = home.live()
    wait_until(lambda: home.newest_step() >= 40, 60, "a checkpoint")
    with size_limit(home, life):
        wait_until(lambda: " failed: " in life.said(), 60, "a failed checkpoint")
        life.signal(signal.SIGTERM)
        assert life.end() == 2
    *failures, last = life.complaints()
    assert last.startswith("ecdctr: the last checkpoint could not be written")
    assert all("checkpoint at step" in line for line in failures), life.said()
    verify(max(home.store.glob("step-*")))
    home.finish()
    assert_same_end(home, undisturbed)


@pytest.mark.timeout(120)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(make_home, undisturbed):
    home = make_home()
    life = home.live()
    wait_until(lambda: home.newest_step() >= 30, 60, "some checkpoints")
    life.signal(signal.SIGTERM)
    assert life.end() == 0
    path = home.newest().path
    (data,) = path.glob("*.distcp")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    life = home.finish()
    assert f"{path} is damaged" in life.said() and data.name in life.said()
    assert (home.store / f"damaged-{path.name}").is_dir()
    assert assert_same_end(home, undisturbed) > 0, "from the one before, a little was repeated"
