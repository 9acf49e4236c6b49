"""The store alone: atomic, verified, N deep, and honest about a full disk."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from errors import UserError
from streaming.impressions import Position
from trainers import checkpoint
from trainers.checkpoint import CheckpointStore, DamagedCheckpoint, Progress, verify


def write(store: CheckpointStore, step: int, content: bytes = b"weights") -> Path:
    writing = store.begin(step)
    (writing / "sub").mkdir()
    (writing / "sub" / "weights.bin").write_bytes(content + str(step).encode())
    positions = {0: Position(10 * step, 3), 2: Position(7, 0)}
    progress = Progress(step=step, impressions=step * 5, topic="t", positions=positions)
    return store.commit(writing, progress).path


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", keep=3)
    store.prepare()
    return store


def test_the_newest_is_current_and_says_what_was_written(store):
    assert store.latest() is None
    write(store, 1)
    path = write(store, 2)
    found = store.latest()
    assert found is not None and found.path == path
    assert found.progress.step == 2
    assert found.progress.positions == {0: Position(20, 3), 2: Position(7, 0)}


def test_only_the_last_n_are_kept(store):
    for step in range(1, 6):
        write(store, step)
    assert [path.name[-2:] for path in store.paths()] == ["05", "04", "03"]


def test_an_unfinished_write_is_never_current_and_is_swept(store):
    write(store, 1)
    writing = store.begin(2)
    (writing / "weights.bin").write_bytes(b"half")
    assert store.latest().progress.step == 1
    store.prepare()
    assert not writing.exists()


def damage_content(path: Path) -> None:
    (path / "sub" / "weights.bin").write_bytes(b"Weights2")


def remove_file(path: Path) -> None:
    (path / "sub" / "weights.bin").unlink()


def truncate_manifest(path: Path) -> None:
    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-40])


def alter_manifest(path: Path) -> None:
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 2', '"step": 9'))


@pytest.mark.parametrize("damage", [damage_content, remove_file, truncate_manifest, alter_manifest])
def test_a_damaged_one_is_named_and_the_one_before_is_used(store, damage, caplog):
    write(store, 1)
    path = write(store, 2)
    damage(path)
    assert store.latest().progress.step == 1
    assert str(path) in caplog.text
    assert store.latest().progress.step == 1
    assert (path.parent / f"damaged-{path.name}").exists()


def test_all_damaged_is_an_error_with_a_way_out(store):
    remove_file(write(store, 1))
    with pytest.raises(UserError, match="start anew"):
        store.latest()


def test_a_full_disk_is_an_error_and_leaves_the_old_one_current(store, monkeypatch):
    write(store, 1)

    def full(path: Path) -> None:
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "_sync", full)
    with pytest.raises(OSError, match="No space"):
        write(store, 2)
    assert store.latest().progress.step == 1


def test_a_step_written_again_replaces_itself(store):
    write(store, 1, b"a")
    path = write(store, 1, b"b")
    assert (verify(path).path / "sub" / "weights.bin").read_bytes() == b"b1"


def as_of(format_: int, path: Path, checksum: str) -> Path:
    """A checkpoint as another version of this program would have sealed it."""
    manifest = path / "manifest.json"
    body = json.loads(manifest.read_text())["body"]
    body |= {"format": format_, "files": {"sub/weights.bin": checksum}}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps({"body": body, "sha256": digest}))
    return path


def test_the_first_format_is_read(store):
    sha256 = hashlib.sha256(b"weights1").hexdigest()
    assert verify(as_of(1, write(store, 1), sha256)).progress.step == 1
    with pytest.raises(DamagedCheckpoint, match="weights.bin"):
        verify(as_of(1, write(store, 1, b"Weights"), sha256))


def test_a_later_format_is_refused_by_its_number(store):
    with pytest.raises(DamagedCheckpoint, match="format 3"):
        verify(as_of(3, write(store, 1), "?"))


def test_a_large_file_is_checked_to_its_last_byte(store):
    path = write(store, 1, bytes(3 << 20))
    verify(path)
    with (path / "sub" / "weights.bin").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"?")
    with pytest.raises(DamagedCheckpoint, match="weights.bin"):
        verify(path)


def test_the_checksum_is_the_one_of_the_standard(tmp_path):
    (tmp_path / "file").write_bytes(b"123456789")  # RFC 3720's check value
    checkpoint.seal(tmp_path, Progress())
    files = json.loads((tmp_path / "manifest.json").read_text())["body"]["files"]
    assert files == {"file": "e3069283-9"}


def test_a_checksum_taken_while_writing_is_kept_and_the_file_is_not_read(store, monkeypatch):
    read = []
    monkeypatch.setitem(checkpoint._CHECKSUMS, 2, lambda path: read.append(path.name) or "0-0")
    (writing := store.begin(1)).joinpath("weights").write_bytes(b"123456789")
    (writing / "window").write_bytes(b"other")
    path = store.commit(writing, Progress(step=1), {"weights": "e3069283-9"}).path
    assert read == ["window"]
    files = json.loads((path / "manifest.json").read_text())["body"]["files"]
    assert files == {"weights": "e3069283-9", "window": "0-0"}


def test_a_file_that_is_not_what_was_to_be_written_is_noticed(store):
    (writing := store.begin(1)).joinpath("weights").write_bytes(b"123456780")
    path = store.commit(writing, Progress(step=1), {"weights": "e3069283-9"}).path
    with pytest.raises(DamagedCheckpoint, match="weights"):
        verify(path)


def test_all_damaged_stays_an_error_at_the_next_start(store):
    alter_manifest(write(store, 2))
    for _ in range(2):
        with pytest.raises(UserError, match="start anew"):
            store.latest()


def test_a_durable_directory_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(checkpoint, "_sync", lambda path: synced.append(path.name))
    for durable in (True, False):
        (tmp_path / "made" / "inner").mkdir(parents=True)
        (tmp_path / "made" / "inner" / "weights").write_bytes(b"bytes")
        checkpoint.seal(tmp_path / "made", Progress(step=3), durable=durable)
        assert sorted(synced) == (["inner", "made", "manifest.json", "weights"] if durable else [])
        checkpoint.rename(tmp_path / "made", tmp_path / f"final-{durable}", durable=durable)
        assert synced[4:] == ([tmp_path.name] if durable else [])
        assert checkpoint.verify(tmp_path / f"final-{durable}").progress.step == 3
        synced.clear()
