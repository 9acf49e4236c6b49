import json
import os

import pytest
from tests_support import run_ecdctr

from config import Config
from errors import UserError
from monitoring.demo import DEMO_CONFIG, MARKER, Demo
from monitoring.processes import Process, Registration
from monitoring.targets import targets, write_targets
from settings import load


def read(path):
    return json.loads(path.read_text())


def test_who_serves_metrics_is_a_target_until_it_ends_cleanly(tmp_path):
    assert read(write_targets(tmp_path)) == []
    with (
        Registration(tmp_path, "train-actr", "http://127.0.0.1:4711/metrics"),
        Registration(tmp_path, "silent"),
    ):
        path = write_targets(tmp_path)
        assert path == tmp_path / "prometheus" / "targets.json"
        assert read(path) == [{"targets": ["127.0.0.1:4711"], "labels": {"process": "train-actr"}}]
        assert [p.name for p in path.parent.iterdir()] == ["targets.json"]
    assert read(write_targets(tmp_path)) == []


def test_who_died_stays_a_target(tmp_path):
    with (
        pytest.raises(RuntimeError),
        Registration(tmp_path, "monitor", "http://127.0.0.1:1/metrics"),
    ):
        raise RuntimeError
    (target,) = read(write_targets(tmp_path))
    assert target["labels"] == {"process": "monitor"}


def test_the_file_is_left_alone_while_it_is_right(tmp_path):
    path = write_targets(tmp_path)
    os.utime(path, (1, 1))
    assert write_targets(tmp_path).stat().st_mtime == 1


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "prometheus").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        write_targets(tmp_path)


def test_the_command_says_where_the_file_is(tmp_path):
    done = run_ecdctr("targets", "--run-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{tmp_path / 'prometheus' / 'targets.json'}: 0 processes"


def test_a_run_directory_that_is_not_there_is_not_made(tmp_path):
    done = run_ecdctr("targets", "--run-dir", str(tmp_path / "mistyped"))
    assert (done.returncode, done.stdout) == (2, "") and "mistyped" in done.stderr
    assert not (tmp_path / "mistyped").exists()


def test_a_process_without_a_sound_address_is_no_target():
    odd = Process("w", 1, 1.0, 1.0, "http://[::1", True)
    assert targets([odd]) == []


def test_who_was_stopped_with_a_demo_is_no_target_any_more(tmp_path):
    demo = Demo(load(Config, DEMO_CONFIG, {}, [f"run_dir={tmp_path}"]), minutes=1)
    with Registration(tmp_path, "train-actr", "http://127.0.0.1:4711/metrics"):
        path = write_targets(tmp_path)
    demo._stop()
    assert read(path), "a folder that is no demo's is left alone"
    (tmp_path / MARKER).touch()
    demo._stop()
    assert read(path) == []
