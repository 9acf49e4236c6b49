"""Large files that are written once and hardly ever read, past the system's page cache.

Copied into the page cache, a checkpoint costs the processors that train far more than the
disk's own copy, pushes out the log that Kafka serves from there, and has to be read again
for its checksum.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from trainers.checksum import Checksum

_BLOCK = 1 << 20  # bytes that go to the disk at once
_SECTOR = 4_096  # of which direct writes are a multiple, in memory as on the disk
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it


class DirectFile(io.RawIOBase):
    """A new file, written from its beginning to its end.

    Where the file system knows no direct writes, they are ordinary ones.

    Raises:
        OSError: it cannot be created; from `write` and `close`: the disk is full, or fails.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._block = np.frombuffer(mmap.mmap(-1, _BLOCK), dtype=np.uint8)  # begins at a page
        self._filled = 0
        self._on_disk = 0
        self._checksum = Checksum()
        self._set_direct(True)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._on_disk + self._filled

    def fileno(self) -> int:
        return self._handle

    @property
    def checksum(self) -> str:
        """Of all that was written, once it is closed."""
        return str(self._checksum)

    def write(self, data: Any) -> int:
        bytes_N = np.frombuffer(data, dtype=np.uint8)
        start = 0
        while start < len(bytes_N):
            part = bytes_N[start : start + _BLOCK - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            start += len(part)
            if self._filled == _BLOCK:
                self._put()
        return len(bytes_N)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._filled:
                self._put()
                os.ftruncate(self._handle, self._on_disk)  # without what filled the last sector
        finally:
            os.close(self._handle)
            super().close()

    def _put(self) -> None:
        """The block's bytes to the disk, in whole sectors."""
        self._checksum.add(self._block[: self._filled])
        end, done = -(-self._filled // _SECTOR) * _SECTOR, 0
        while done < end:
            done += self._put_some(self._block[done:end].data, self._on_disk + done)
        self._on_disk, self._filled = self._on_disk + self._filled, 0

    def _put_some(self, part: memoryview, at: int) -> int:
        try:
            return os.pwrite(self._handle, part, at)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self._set_direct(False)  # such as after a part of a block, on a disk that is nearly full
        return os.pwrite(self._handle, part, at)

    def _set_direct(self, direct: bool) -> None:
        flags = fcntl.fcntl(self._handle, fcntl.F_GETFL) & ~_DIRECT
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._handle, fcntl.F_SETFL, flags | _DIRECT if direct else flags)
