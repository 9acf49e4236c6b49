"""`python -m benchmarks`: every published figure, one script after the other."""

from __future__ import annotations

import subprocess
import sys

SCRIPTS = (
    "components",
    "simulate_throughput",
    "stream_ratio",
    "history_lookup",
    "history_cost",
    "recall_cost",
    "hand_down",
    "monitor_throughput",
    "replay_speed",
    "market_learnability",
)


def main() -> int:
    chosen = sys.argv[1:] or SCRIPTS
    unknown = set(chosen) - set(SCRIPTS)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(SCRIPTS)}")
        return 2
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
