"""What `make` does to the environment of all that it runs."""

import shutil
import subprocess

import pytest
from tests_support import ROOT, environ


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_compiled_python_is_kept_though_the_environment_forbids_it():
    probe = "probe: ; @echo kept=$${PYTHONDONTWRITEBYTECODE-yes}"
    done = subprocess.run(
        ["make", "--silent", "--no-print-directory", "--eval", probe, "probe"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environ(PYTHONDONTWRITEBYTECODE="1", MAKEFLAGS=""),
    )
    assert done.stdout == "kept=yes\n", done.stderr
