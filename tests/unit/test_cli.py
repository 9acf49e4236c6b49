"""The command line: instant help, one-line errors, no model where none is needed."""

import signal
import subprocess
import sys

import pytest
from tests_support import environ, run_ecdctr

import cli


def test_every_command_exists_and_explains_itself():
    for name in cli.COMMANDS:
        command = cli.LazyGroup().get_command(None, name)
        assert command is not None and command.help, name
        options = [p for p in command.params if hasattr(p, "help")]
        assert all(option.help for option in options), name


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_no_command_imports_torch_before_it_runs(name):
    module = cli.COMMANDS[name][0]
    code = f"import sys, {module}; print('torch' in sys.modules, 'faust' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "--set", "actr.batchsize=1"], "did you mean actr.batch_size"),
        (["config", "--config", "nowhere.toml"], "no configuration file"),
        (["trian"], "did you mean train"),
        (["xyz"], "No such command"),
        (["kafka", "--run-dir", "a,b"], "a comma"),
        (["simulate", "--rate", "nan"], "finite number"),
        (["simulate", "--rate", "inf"], "finite number"),
    ],
)
def test_errors_are_one_line_and_exit_2(arguments, words):
    done = run_ecdctr(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_config_prints_values_and_their_origin():
    done = run_ecdctr("config", env={"ECDCTR_ACTR__BATCH_SIZE": "77"})
    line = next(line for line in done.stdout.splitlines() if line.startswith("actr.batch_size"))
    assert "= 77" in line and "$ECDCTR_ACTR__BATCH_SIZE" in line


def test_config_hides_passwords():
    done = run_ecdctr("config", "--set", "kafka.options.sasl_plain_password=hunter2")
    assert "sasl_plain_password" in done.stdout and "hunter2" not in done.stdout


SLOWLY = """
import sys, time
sys.argv[0] = "/usr/bin/ecdctr"

class Slow:
    def find_spec(self, name, *more):
        if name == sys.argv[1]:
            print("importing", flush=True)
            time.sleep(600)

sys.meta_path.insert(0, Slow())
from cli import main
sys.argv[1:] = ["config"]
main()
"""


@pytest.mark.parametrize("module", ["click", "config_command"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(module):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, module],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(),
        # Who runs the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (-signal.SIGINT, "")
