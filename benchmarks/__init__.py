"""One script a figure that is published; `python -m benchmarks` runs them all."""

import trainers  # noqa: F401  settles how OpenMP waits, before anything loads PyTorch
