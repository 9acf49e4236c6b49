"""Children are started again, stopped in time, and do not outlive their supervisor."""

import subprocess
import sys

import psutil
import pytest
from tests_support import environ, eventually

from supervisor import Child

OBEDIENT = """
import shutdown, sys
stopping = shutdown.stop_event()
print("up", flush=True)
stopping.wait()
print("bye", flush=True)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


def child(tmp_path, code: str, **more) -> Child:
    command = [sys.executable, "-c", code]
    return Child("child", command, tmp_path / "child.log", environ=environ(), **more)


def up(made: Child) -> None:
    eventually(lambda: "up" in made.last_words(99), 20, "child up")


def test_a_killed_child_is_started_again(tmp_path):
    made = child(tmp_path, OBEDIENT)
    made.start()
    try:
        up(made)
        first = made.process.pid
        made.process.kill()
        made.process.wait()
        assert "SIGKILL" in made.tend()
        assert made.tend() is None  # said once
        eventually(lambda: made.tend() is None and made.running, 10, "started again")
        assert made.restarts == 1 and made.process.pid != first
    finally:
        made.stop(5)
    assert not made.running


def test_stop_is_orderly_and_a_stubborn_child_is_killed(tmp_path):
    for code, status in ((OBEDIENT, 0), (STUBBORN, -9)):
        made = child(tmp_path, code)
        made.start()
        up(made)
        made.stop(1 if code is STUBBORN else 10)
        assert made.process.returncode == status
        made.log.unlink()


def test_done_is_not_dead(tmp_path):
    made = child(tmp_path, "print('up')", finite=True)
    made.start()
    made.process.wait()
    assert made.done and made.tend() is None


SUPERVISOR = """
import sys, time
from pathlib import Path
from supervisor import Child
made = Child("child", [sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
made.start()
print(made.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.timeout(60)
def test_children_stop_when_the_supervisor_is_killed(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", SUPERVISOR, OBEDIENT, str(log)]
    supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ())
    try:
        pid = int(supervisor.stdout.readline())
        eventually(lambda: log.exists() and "up" in log.read_text(), 20, "child up")
    finally:
        supervisor.kill()
        supervisor.wait()
    eventually(lambda: not psutil.pid_exists(pid), 10, "child gone")
    assert "bye" in log.read_text()


POOL = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from shutdown import end_with_parent
if __name__ == "__main__":
    server = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=server, initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


@pytest.mark.timeout(60)
def test_a_pool_ends_when_its_maker_is_killed(tmp_path):
    path = tmp_path / "pool.py"
    path.write_text(POOL)
    maker = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env=environ()
    )
    try:
        worker = psutil.Process(int(maker.stdout.readline()))
        all_of_it = psutil.Process(maker.pid).children(recursive=True)
        assert worker in all_of_it and len(all_of_it) == 3, "worker, fork server, resource tracker"
    finally:
        maker.kill()
        maker.wait()
    _, alive = psutil.wait_procs(all_of_it, timeout=20)
    assert not alive
