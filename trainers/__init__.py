"""Models, the loop that every level runs, checkpoints and what is handed from level to level."""

import os

# OpenMP reads this once, when PyTorch is loaded. Its threads wait for work by spinning for
# milliseconds, on cores that the reader's thread, Kafka and others want: beside them a step
# on two cores was seen to take five times as long as with a short spin, and no less alone.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
