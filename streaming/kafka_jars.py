"""The embedded Kafka's jars: pinned, fetched once by jgo, checked by SHA-256, kept in a cache.

`kafka_jars.sha256` beside this module lists every jar with its checksum. The
cache is `$ECDCTR_CACHE_DIR`, else `$XDG_CACHE_HOME/ecdctr`, else
`~/.cache/ecdctr`. Every jar is checked when it enters the cache and again
whenever a broker starts (44 MB, a fraction of a second): what is damaged is
fetched anew, and what does not match is never run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from errors import UserError

KAFKA_VERSION = "4.3.1"
LOCK_FILE = Path(__file__).with_suffix(".sha256")

# The "!" keeps log4j's own dependency management out: it would bring an older kafka-clients.
_ROOTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.apache.logging.log4j:log4j-slf4j-impl:2.25.3!"
)
_DOWNLOADS = 8  # at once
_ATTEMPTS = 3

Report = Callable[[str], None]


@dataclass(frozen=True)
class Jar:
    """One pinned jar of Maven Central."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    def is_at(self, path: Path) -> bool:
        """True when ``path`` is a file with this jar's content."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except OSError:
            return False


def pinned(lock_file: Path = LOCK_FILE) -> tuple[Jar, ...]:
    """The jars that the lock file lists."""
    lines = (line.split() for line in lock_file.read_text().splitlines() if line[:1] != "#")
    jars = []
    for sha256, coordinate in lines:
        group, artifact, version = coordinate.split(":")
        jars.append(Jar(group, artifact, version, sha256))
    return tuple(jars)


def report_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """Where the jars are kept: one folder a Kafka version."""
    if own := os.environ.get("ECDCTR_CACHE_DIR"):
        base = Path(own)
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecdctr"
    return base.expanduser().absolute() / f"kafka-{KAFKA_VERSION}"


def class_path(report: Report = report_to_stderr) -> str:
    """Java's class path for the broker.

    With `KAFKA_HOME` set, the libraries of that unpacked Kafka; else the pinned
    jars, from the cache or, the first time, from Maven Central.

    Raises:
        UserError: no jars and no way to get them.
    """
    if home := os.environ.get("KAFKA_HOME"):
        return _unpacked(Path(home).expanduser().absolute())
    folder = cache_dir()
    fill(folder, pinned(), report=report)
    return os.pathsep.join(str(folder / jar.filename) for jar in pinned())


def _unpacked(home: Path) -> str:
    if not any(home.glob("libs/kafka_*.jar")):
        raise UserError(f"KAFKA_HOME={home} holds no libs/kafka_*.jar: name an unpacked Kafka")
    return str(home / "libs" / "*")


Fetch = Callable[[Jar, Path], Path]


def fetch_by_jgo(jar: Jar, repository: Path) -> Path:
    """Download one jar into the Maven-like folder ``repository``; returns its path."""
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(PythonResolver(), repo_cache=repository, local_repos=[], timeout=30)
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    return Path(component.artifact().resolve())


def fill(
    folder: Path,
    jars: Iterable[Jar],
    fetch: Fetch = fetch_by_jgo,
    report: Report = report_to_stderr,
) -> None:
    """Bring ``folder`` to hold every one of ``jars``; other processes may do so at once.

    Raises:
        UserError: a jar cannot be had or has the wrong checksum, or the folder
            cannot be written.
    """
    if not (missing := _missing(folder, jars)):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", report, "fetching Apache Kafka"):
            missing = _missing(folder, missing)  # another process may have been here
            if missing:
                _fetch_all(folder, missing, fetch, report)
    except OSError as error:
        raise UserError(_ways_out(f"the cache {folder} cannot be filled ({error})")) from error


def _missing(folder: Path, jars: Iterable[Jar]) -> list[Jar]:
    return [jar for jar in jars if not jar.is_at(folder / jar.filename)]


def _fetch_all(folder: Path, missing: list[Jar], fetch: Fetch, report: Report) -> None:
    damaged = [jar.filename for jar in missing if (folder / jar.filename).exists()]
    if damaged:
        report(f"damaged in the cache, fetched again: {', '.join(damaged)}")
    report(f"fetching Apache Kafka {KAFKA_VERSION}, {len(missing)} jars, into {folder} (once)")
    for left_by_a_kill in folder.glob(".fetching-*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))
    try:
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            list(pool.map(lambda jar: _fetch_one(fetch, jar, staging, folder), missing))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch_one(fetch: Fetch, jar: Jar, staging: Path, folder: Path) -> None:
    for attempt in range(_ATTEMPTS):
        repository = staging / str(attempt)  # what a failed attempt left is not met again
        repository.mkdir(exist_ok=True)
        try:
            path = fetch(jar, repository)
            break
        except Exception as error:  # jgo raises whatever its HTTP library and parsers raise
            if attempt == _ATTEMPTS - 1:
                reason = f"{jar} cannot be fetched ({type(error).__name__})"
                raise UserError(_ways_out(reason)) from error
    if not jar.is_at(path):
        raise UserError(
            _ways_out(f"{jar} came with a checksum other than the pinned one and is not used")
        )
    path.replace(folder / jar.filename)


def _ways_out(what: str) -> str:
    return (
        f"no jars for the embedded Kafka: {what}; use a cluster (--bootstrap-servers HOST:PORT), "
        f"or an unpacked Kafka (KAFKA_HOME=DIR), or a cache filled on another machine "
        f"(copy its {cache_dir()}, or set ECDCTR_CACHE_DIR)"
    )


@contextlib.contextmanager
def locked(path: Path, report: Report, doing: str) -> Iterator[None]:
    """Hold an advisory lock; the system releases it should this process die."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process is {doing}, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_lock_file() -> None:
    """Resolve the roots anew and write the lock file: for a change of version only."""
    import jgo
    from jgo.maven import MavenContext, PythonResolver

    found = sorted(jgo.resolve(_ROOTS), key=lambda a: (a.groupId, a.artifactId))
    head = [line for line in LOCK_FILE.read_text().splitlines() if line[:1] == "#"]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(PythonResolver(), repo_cache=Path(folder), local_repos=[])
        for one in found:
            component = context.project(one.groupId, one.artifactId).at_version(one.version)
            digest = hashlib.sha256(Path(component.artifact().resolve()).read_bytes())
            lines.append(f"{digest.hexdigest()} {one.groupId}:{one.artifactId}:{one.version}")
    LOCK_FILE.write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    write_lock_file()
