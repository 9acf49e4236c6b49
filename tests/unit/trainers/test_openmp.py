import os
import subprocess
import sys

import pytest

SCRIPT = "import trainers, os; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_that_wait_leave_the_core_to_others_unless_told_otherwise(chosen, expected):
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    output = subprocess.check_output([sys.executable, "-c", SCRIPT], env=kept | chosen, text=True)
    assert output.strip() == expected
