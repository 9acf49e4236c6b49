"""Bytes written past the page cache: the same, whatever the pieces and the file system."""

import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from trainers import direct_file
from trainers.checksum import checksum_of
from trainers.direct_file import DirectFile

BLOCK = direct_file._BLOCK


def flags(file: DirectFile) -> int:
    return fcntl.fcntl(file.fileno(), fcntl.F_GETFL)


def pieces(*sizes: int) -> list[bytes]:
    generator = np.random.default_rng(sum(sizes))
    return [generator.bytes(size) for size in sizes]


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (0,),
        (1,),
        (4_095, 1),
        (4_096,),
        (4_097,),
        (BLOCK,),
        (BLOCK - 1, 2),
        (3, BLOCK, 5, 2 * BLOCK + 7, 0, 64),
    ],
)
def test_a_file_is_what_was_written_and_its_checksum_is_the_file_s(tmp_path, sizes):
    written = pieces(*sizes)
    with DirectFile(tmp_path / "file") as file:
        for count, piece in enumerate(written, 1):
            assert file.write(piece) == len(piece)
            assert file.tell() == sum(sizes[:count])
    assert (tmp_path / "file").read_bytes() == b"".join(written)
    assert file.checksum == checksum_of(tmp_path / "file")


def test_anything_that_holds_bytes_can_be_written(tmp_path):
    values = np.arange(1_000, dtype=np.float32)
    with DirectFile(tmp_path / "file") as file:
        assert file.write(memoryview(values)) == 4_000
        assert file.write(bytearray(b"end")) == 3
    assert (tmp_path / "file").read_bytes() == values.tobytes() + b"end"


def test_a_file_that_was_there_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"longer than what follows")
    with DirectFile(tmp_path / "file") as file:
        file.write(b"short")
    assert (tmp_path / "file").read_bytes() == b"short"


def cannot_be_direct(monkeypatch) -> None:
    """As on a file system that refuses the flag."""
    true = fcntl.fcntl

    def refusing(handle, command, argument=0):
        if command == fcntl.F_SETFL and argument & direct_file._DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return true(handle, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)


def refuses_direct_writes(monkeypatch) -> None:
    """As on a file system that takes the flag and then wants larger pieces."""
    true = os.pwrite

    def refusing(handle, data, at):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & direct_file._DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return true(handle, data, at)

    monkeypatch.setattr(os, "pwrite", refusing)


def writes_in_parts(monkeypatch) -> None:
    """As a disk that is nearly full, or a signal, may have it."""
    true = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: true(handle, data[:5_000], at))


@pytest.mark.parametrize("trouble", [cannot_be_direct, refuses_direct_writes, writes_in_parts])
def test_where_direct_writes_do_not_go_ordinary_ones_do(tmp_path, monkeypatch, trouble):
    trouble(monkeypatch)
    written = pieces(BLOCK + 10, 9_000)
    with DirectFile(tmp_path / "file") as file:
        for piece in written:
            file.write(piece)
    assert (tmp_path / "file").read_bytes() == b"".join(written)
    assert file.checksum == checksum_of(tmp_path / "file")


@pytest.mark.parametrize("sizes", [(10,), (BLOCK, 10)])
def test_a_full_disk_is_an_error_and_the_handle_is_closed(tmp_path, monkeypatch, sizes):
    def full(handle, data, at):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space") as raised, DirectFile(tmp_path / "file") as file:
        handle = file.fileno()
        for piece in pieces(*sizes):
            file.write(piece)
    assert raised.value.errno == errno.ENOSPC and file.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        DirectFile(tmp_path / "none" / "file")


def test_writes_are_direct_where_the_disk_can(tmp_path):
    path = _direct_place(tmp_path) / "file"
    with DirectFile(path) as file:
        file.write(bytes(2 * BLOCK))
        assert flags(file) & direct_file._DIRECT
    assert path.stat().st_size == 2 * BLOCK


def _direct_place(folder: Path) -> Path:
    try:
        handle = os.open(folder / "probe", os.O_CREAT | os.O_WRONLY | direct_file._DIRECT)
    except OSError:
        pytest.skip("this file system knows no direct writes")
    os.close(handle)
    return folder
