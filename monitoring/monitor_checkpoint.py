"""The monitor's checkpoint: one file, current by one rename, with its checksum in front.

sha256 of what follows, in hex
the facts, as one line of JSON, with the arrays' names
the arrays, as numpy writes them, in that order
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
NAME = "checkpoint"
_HEX = 64
_CHUNK = 1 << 20
_KEPT_ASIDE = 3


class DamagedState(Exception):
    """A file whose bytes are not those that were written, or of another version."""


class _Hashing:
    """Writes on, and remembers the digest of what it wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def write_state(directory: Path, facts: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
    """Make ``facts`` and ``arrays`` the current checkpoint in ``directory``.

    Raises:
        OSError: it could not be written; the one before stays current.
    """
    directory.mkdir(parents=True, exist_ok=True)
    writing, final = directory / f".{NAME}.writing", directory / NAME
    head = {"format": FORMAT, "facts": facts, "arrays": list(arrays)}
    with writing.open("wb") as file:
        file.write(b" " * _HEX + b"\n")
        hashing = _Hashing(file)
        hashing.write(json.dumps(head).encode() + b"\n")
        for array in arrays.values():
            np.save(hashing, array, allow_pickle=False)
        file.seek(0)
        file.write(hashing.digest.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())
    writing.replace(final)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_state(directory: Path) -> tuple[dict[str, Any], dict[str, NDArray]] | None:
    """The facts and arrays of the current checkpoint; None: there is none.

    Raises:
        DamagedState: it cannot be used.
    """
    try:
        with (directory / NAME).open("rb") as file:
            expected = file.readline(_HEX + 1).strip().decode(errors="replace")
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            if digest.hexdigest() != expected:
                raise DamagedState("it does not match its checksum")
            file.seek(_HEX + 1)
            return _content(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedState(f"it cannot be read: {error}") from error


def _content(file: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray]]:
    head = json.loads(file.readline())
    if head["format"] != FORMAT:
        raise DamagedState(f"format {head['format']}, this version reads {FORMAT}")
    return head["facts"], {name: np.load(file, allow_pickle=False) for name in head["arrays"]}


def set_aside(directory: Path) -> Path:
    """Give the checkpoint another name, so that it is not read again; the name.

    Only the newest few are kept under such names.
    """
    aside = directory / f"damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    (directory / NAME).replace(aside)
    others = [path for path in directory.glob("damaged-*") if path.is_file() and path != aside]
    newest_first = sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in newest_first[_KEPT_ASIDE - 1 :]:
        old.unlink(missing_ok=True)
    return aside
