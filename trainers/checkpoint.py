"""Checkpoints: one directory, one manifest, current by one rename.

    <directory>/
        step-000000000400/
            manifest.json       what the state is, where the log goes on, every file's checksum
            ...                 whatever the writers put there (weights, vocabulary, metrics)
        .writing-…              a checkpoint that never became current; removed at the next start

A directory is current from the moment it carries its final name, and it gets
that name only when every byte of it is on disk. Nothing here knows of torch or
Kafka: the content comes from the callables that the caller hands in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from errors import UserError
from streaming.impressions import Position, Positions
from trainers.checksum import checksum_of

log = logging.getLogger(__name__)

FORMAT = 2
"""Of what is written; 1, whose checksums are SHA-256, is read as well."""
MANIFEST = "manifest.json"
WRITING = ".writing-"

_UNKNOWN: Mapping[str, str] = MappingProxyType({})


class DamagedCheckpoint(Exception):
    """A checkpoint whose bytes are not those that were written."""


@dataclass(frozen=True)
class Progress:
    """How far a level has come: what a manifest says besides its files' checksums."""

    step: int = 0  # batches learnt
    impressions: int = 0  # impressions learnt
    watermark: int = 0  # greatest event time learnt, ms
    topic: str = ""
    positions: Positions = field(default_factory=dict)  # where the log goes on
    shape: dict[str, Any] = field(default_factory=dict)  # settings that the state depends on
    world_size: int = 1
    marks: dict[str, int] = field(default_factory=dict)  # boundaries passed, such as "period": ms


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    progress: Progress


def require_same_shape(checkpoint: Checkpoint, shape: dict[str, Any]) -> None:
    """Refuse a state that other features or another model's shape left behind.

    Raises:
        UserError: naming the settings that differ.
    """
    then = checkpoint.progress.shape
    differing = sorted(key for key in then.keys() | shape.keys() if then.get(key) != shape.get(key))
    if differing:
        changes = ", ".join(f"{k}: {then.get(k)} then, {shape.get(k)} now" for k in differing[:3])
        raise UserError(
            f"{checkpoint.path} was written with other settings ({changes}); restore them, "
            "or move the checkpoints away to start anew"
        )


class CheckpointStore:
    """The checkpoints of one level, newest first, ``keep`` deep."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def prepare(self) -> None:
        """Create the directory and remove what an interrupted write left behind."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(f"{WRITING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def begin(self, step: int) -> Path:
        """An empty directory to write a checkpoint into.

        Raises:
            OSError: the disk is full or not writable.
        """
        path = self.directory / f"{WRITING}{step:012d}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def commit(
        self, writing: Path, progress: Progress, checksums: Mapping[str, str] = _UNKNOWN
    ) -> Checkpoint:
        """Seal ``writing`` with its manifest and make it current; ``checksums`` as in `seal`.

        Raises:
            OSError: something could not be written; the checkpoint is not current.
        """
        seal(writing, progress, checksums)
        final = self.directory / f"step-{progress.step:012d}"
        if final.exists():  # the same step written again says the same
            shutil.rmtree(final)
        rename(writing, final)
        self._prune()
        return Checkpoint(final, progress)

    def discard(self, writing: Path) -> None:
        shutil.rmtree(writing, ignore_errors=True)

    def paths(self) -> list[Path]:
        """Every checkpoint by name, newest first, unverified."""
        return sorted(self.directory.glob("step-*"), reverse=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; a damaged one is named and set aside.

        Raises:
            UserError: there are checkpoints, and none of them is whole.
        """
        paths, damaged = self.paths(), []
        for path in paths:
            try:
                found = verify(path)
            except DamagedCheckpoint as error:
                damaged.append((path, error))
                continue
            for bad, reason in damaged:
                self._set_aside(bad, reason)
            return found
        if paths:
            raise UserError(
                f"every checkpoint in {self.directory} is damaged (the newest: {damaged[0][1]}); "
                "restore one from a copy, "
                "or move that folder away to start anew"
            )
        return None

    def _set_aside(self, path: Path, error: DamagedCheckpoint) -> None:
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        log.error(
            "checkpoint %s is damaged (%s); kept as %s, using the one before",
            path,
            error,
            aside.name,
        )

    def _prune(self) -> None:
        for path in self.paths()[self.keep :]:
            shutil.rmtree(path, ignore_errors=True)


def seal(
    directory: Path,
    progress: Progress,
    checksums: Mapping[str, str] = _UNKNOWN,
    *,
    durable: bool = True,
) -> None:
    """Write a manifest of the checksums of every file of ``directory``.

    Args:
        checksums: of files, by their name in ``directory``, as taken when they were written;
            the others are read.
        durable: bring all of it to the disk.
    """
    paths = list(_files(directory))
    names = {path.relative_to(directory).as_posix(): path for path in paths}
    files = {n: checksums.get(n) or _CHECKSUMS[FORMAT](path) for n, path in names.items()}
    body = {"format": FORMAT, "progress": _to_json(progress), "files": files}
    manifest = directory / MANIFEST
    manifest.write_text(json.dumps({"body": body, "sha256": _body_digest(body)}, indent=1))
    if durable:
        for path in [*paths, manifest, *{path.parent for path in paths} | {directory}]:
            _sync(path)


def rename(writing: Path, final: Path, *, durable: bool = True) -> None:
    """Give a sealed directory its final name; for good if ``durable``."""
    os.rename(writing, final)
    if durable:
        _sync(final.parent)


def verify(path: Path) -> Checkpoint:
    """Read a manifest and check every file that it names.

    Raises:
        DamagedCheckpoint: something is missing, changed or unreadable.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        body = manifest["body"]
        if manifest["sha256"] != _body_digest(body):
            raise DamagedCheckpoint("the manifest was changed")
        if (checksum := _CHECKSUMS.get(body["format"])) is None:
            raise DamagedCheckpoint(f"format {body['format']}, this version reads up to {FORMAT}")
        for name, expected in body["files"].items():
            if checksum(path / name) != expected:
                raise DamagedCheckpoint(f"{name} does not match its checksum")
        return Checkpoint(path, _from_json(body["progress"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error


def _to_json(progress: Progress) -> dict[str, Any]:
    return asdict(progress) | {
        "positions": {str(p): [at.offset, at.row] for p, at in progress.positions.items()}
    }


def _from_json(values: dict[str, Any]) -> Progress:
    positions = {int(p): Position(*at) for p, at in values["positions"].items()}
    return Progress(**(values | {"positions": positions}))


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_CHECKSUMS: dict[int, Callable[[Path], str]] = {1: _sha256, 2: checksum_of}


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
