import subprocess
import sys
import textwrap

import pytest

FAULTS = """
    import resource
    import numpy
    from trainers.host_memory import keep_freed_memory

    if {keep}:
        keep_freed_memory()

    def step():
        several = [numpy.ones(size) for size in (3_000_000, 500_000, 2_000_000)]  # 24, 4, 16 MB
        del several

    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    script = textwrap.dedent(FAULTS.format(keep=keep))
    return int(subprocess.check_output([sys.executable, "-c", script], text=True))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_memory_that_was_freed_is_not_faulted_in_again():
    assert faults(keep=True) < 200 < faults(keep=False)
