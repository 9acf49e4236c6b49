"""What every benchmark shares: the machine's name, medians, a JSON file and a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path("bench-results")


def machine() -> str:
    """The processor, its cores, Python and PyTorch."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    from importlib.metadata import version

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name}, {cores} cores, no GPU used, Python {platform.python_version()}, "
        f"torch {version('torch')}, torchrec {version('torchrec')}"
    )


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Median with the least and the greatest."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def publish(name: str, figures: Mapping[str, object]) -> None:
    """Print ``figures`` as a table and keep them in `bench-results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "figures": dict(figures)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, default=str))
    print(f"\n{name} ({content['machine']})\n\n| what | figure |\n| --- | --- |")
    for what, figure in figures.items():
        print(f"| {what} | {figure} |")
