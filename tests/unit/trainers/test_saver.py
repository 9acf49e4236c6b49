"""What goes into a checkpoint, in which order."""

import json
from types import SimpleNamespace

from trainers.checkpoint import CheckpointStore, Progress
from trainers.process import Trainer
from trainers.saver import Saver

ELSEWHERE = {"theirs": "00000002-2"}


class TwoRanks:
    """Of rank 0; the other one's checksums are known."""

    rank, size = 0, 2

    def gather(self, value):
        return [value, ELSEWHERE] if value == {"ours": "00000001-1"} else [value]


def test_checksums_that_any_rank_took_are_the_manifest_s(tmp_path):
    def write(directory):
        for name in ("ours", "theirs"):
            (directory / name).write_bytes(b"not what the checksums say: they are not taken again")
        return {"ours": "00000001-1"}

    saved = []
    store = CheckpointStore(tmp_path, keep=1)
    saver = Saver(store, TwoRanks(), lambda: None, saved.append)
    saver.save(Progress(step=3), write)
    saver.close()
    manifest = json.loads((saved[0].checkpoint.path / "manifest.json").read_text())
    assert manifest["body"]["files"] == {"ours": "00000001-1", **ELSEWHERE}


def test_predictions_are_with_the_writer_before_it_is_flushed():
    done = []
    publisher = SimpleNamespace(settle=lambda: done.append("settled"))
    writer = SimpleNamespace(flush=lambda: done.append("flushed"))
    Trainer._durable(SimpleNamespace(publisher=publisher, writer=writer))
    assert done == ["settled", "flushed"]
