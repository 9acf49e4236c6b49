"""Checksum and length of a file: damage is to be noticed, and nobody deceives us on our own disk.

A cryptographic hash takes five times as long, of the processors that train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crc32c import crc32c


class Checksum:
    """CRC-32C of what was added so far."""

    def __init__(self) -> None:
        self._crc = self._size = 0

    def add(self, data: Any) -> None:
        """``data``: contiguous bytes of any kind."""
        self._crc = crc32c(data, self._crc)
        self._size += len(data)

    def __str__(self) -> str:
        return f"{self._crc:08x}-{self._size}"


def checksum_of(path: Path) -> str:
    """Raises OSError: it cannot be read."""
    found, block = Checksum(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            found.add(block[:read])
    return str(found)
