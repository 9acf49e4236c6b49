import json
import os
import subprocess
import sys

import psutil
import pytest

from errors import UserError
from monitoring.processes import Registration, running


@pytest.fixture
def other():
    """A live process that is not this one."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.communicate()


def write(run_dir, name, **changes):
    entry = {
        "name": name,
        "pid": os.getpid(),
        "created_at": psutil.Process().create_time(),
        "started_at": 1.0,
        "metrics_url": "",
        **changes,
    }
    (run_dir / "processes").mkdir(exist_ok=True)
    (run_dir / "processes" / f"{name}.json").write_text(json.dumps(entry))


def test_registered_while_it_runs(tmp_path):
    assert running(tmp_path) == []
    with Registration(tmp_path / "deep" / "run", "train-actr-0", "http://127.0.0.1:1/metrics"):
        (process,) = running(tmp_path / "deep" / "run")
        assert (process.name, process.pid, process.alive) == ("train-actr-0", os.getpid(), True)
        assert process.metrics_url == "http://127.0.0.1:1/metrics"
        assert process.created_at <= process.started_at
    assert running(tmp_path / "deep" / "run") == []


def test_an_error_leaves_the_file_and_an_interrupt_does_not(tmp_path):
    with pytest.raises(RuntimeError), Registration(tmp_path, "a"):
        raise RuntimeError
    with pytest.raises(SystemExit), Registration(tmp_path, "b"):
        sys.exit(3)
    with pytest.raises(KeyboardInterrupt), Registration(tmp_path, "c"):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), Registration(tmp_path, "d"):
        sys.exit(0)
    assert [process.name for process in running(tmp_path)] == ["a", "b"]


def test_a_killed_process_is_dead_and_its_name_is_free(tmp_path, other):
    created = psutil.Process(other.pid).create_time()
    write(tmp_path, "simulate", pid=other.pid, created_at=created)
    assert [p.alive for p in running(tmp_path)] == [True]
    other.kill()
    other.wait()
    assert [p.alive for p in running(tmp_path)] == [False]
    with Registration(tmp_path, "simulate"):
        assert [p.alive for p in running(tmp_path)] == [True]


def test_a_zombie_is_dead(tmp_path, other):
    process = psutil.Process(other.pid)
    write(tmp_path, "simulate", pid=other.pid, created_at=process.create_time())
    process.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert [p.alive for p in running(tmp_path)] == [False]


def test_a_reused_pid_is_not_the_process_that_registered(tmp_path):
    write(tmp_path, "old", created_at=psutil.Process().create_time() - 3600)
    assert [p.alive for p in running(tmp_path)] == [False]


def test_a_live_holder_keeps_its_name(tmp_path, other):
    write(tmp_path, "kafka", pid=other.pid, created_at=psutil.Process(other.pid).create_time())
    with pytest.raises(UserError, match=f"already runs in .* as process {other.pid}"):
        Registration(tmp_path, "kafka")


def test_close_leaves_a_successor_alone(tmp_path, other):
    registration = Registration(tmp_path, "kafka")
    write(tmp_path, "kafka", pid=other.pid, created_at=psutil.Process(other.pid).create_time())
    registration.close()
    assert [p.pid for p in running(tmp_path)] == [other.pid]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "created_at": 0}', "\xff"]
)
def test_files_that_are_no_registration_are_left_out(tmp_path, text):
    (tmp_path / "processes").mkdir()
    (tmp_path / "processes" / "junk.json").write_bytes(text.encode("latin-1"))
    assert running(tmp_path) == []


def test_impossible_pids_are_dead(tmp_path):
    write(tmp_path, "a", pid=-5)
    write(tmp_path, "b", pid=2**70)
    assert [p.alive for p in running(tmp_path)] == [False, False]


def test_a_name_cannot_leave_the_folder(tmp_path):
    with pytest.raises(ValueError, match="cannot name a process"):
        Registration(tmp_path, "../x")
