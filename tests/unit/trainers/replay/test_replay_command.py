"""`ecdctr replay` as it is typed."""

import json
import signal

import pytest
from replay_support import small_config, small_log
from tests_support import eventually, run_ecdctr


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("log") / "market")


def settings() -> list[str]:
    config = small_config()
    small = {
        "actr.batch_size": config.actr.batch_size,
        "actr.model.hidden": "[16]",
        "actr.model.ids.rows": 256,
        "actr.device": "cpu",
        "replay.windows": 4,
        "replay.periods": 4,
    }
    return [f"--set={key}={value}" for key, value in small.items()]


def test_a_report_is_written_and_the_table_printed(path, tmp_path, nursery):
    arguments = ["replay", str(path), "--variants=ads-only,joint", f"--out={tmp_path}"]
    done = run_ecdctr(*arguments, *settings(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ads-only" in done.stdout and f"{tmp_path}/report.html" in done.stdout
    names = {"report.html", "report.json", "table.csv", "pairs.csv"}
    assert names <= {file.name for file in tmp_path.iterdir()}
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["variant"] for row in report["variants"]] == ["ads-only", "joint"]
    sweep = [*arguments, *settings(), "--sweep=actr.seed=0,1"]
    again = nursery.start(sweep, tmp_path / "again.log")
    assert again.end(120) == 0, again.said()
    swept = json.loads((tmp_path / "report.json").read_text())["variants"]
    assert [row["variant"] for row in swept] == [
        f"{name} seed={seed}" for name in ("ads-only", "joint") for seed in (0, 1)
    ]
    assert swept[0]["gauc"] == report["variants"][0]["gauc"] != swept[1]["gauc"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants=best"], "no variant 'best'; there are ads-only"),
        (["--variants= ,"], "--variants: which?"),
        (["--sweep=history.period=1"], "did you mean history.periods"),
        (["--sweep=history.periods=0"], "history.periods=0"),
        (["--from-kafka"], "Either LOG, or --from-kafka"),
        (["--since=2025-01-02"], "Either LOG, or --from-kafka"),
    ],
)
def test_refusals_are_one_line(path, tmp_path, arguments, message):
    done = run_ecdctr("replay", str(path), *arguments, f"--out={tmp_path}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_a_folder_that_is_no_log_is_refused(tmp_path):
    done = run_ecdctr("replay", str(tmp_path))
    assert done.returncode == 2 and "ecdctr simulate --out" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_after_an_interruption_only_the_rest_is_run(path, tmp_path, nursery, how):
    arguments = ["replay", str(path), "--variants=ads-only,joint", f"--out={tmp_path}"]
    first = nursery.start([*arguments, *settings()], tmp_path / "first.log")
    finished = "variants/ads-only-*/outcome.json"
    eventually(lambda: list(tmp_path.glob(finished)), 60, "the first variant was finished")
    first.signal(how)
    assert first.end() in (-how, 130, 0)
    then = nursery.start([*arguments, *settings()], tmp_path / "then.log")
    assert then.end(120) == 0 and "ads-only: known already" in then.said()
    assert (tmp_path / "report.html").exists()
