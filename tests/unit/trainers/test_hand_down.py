"""CPM's boundaries and A-CTR's, with real learners and without Kafka."""

import dataclasses

import pyarrow as pa
import pytest
import torch
from synthetic_stream import SCHEMA, impressions
from transfer_support import SIZE, config, learn, tensors

from errors import UserError
from streaming.impressions import EVENT_TIME, Batch, SourceRows
from trainers.checkpoint import Progress, verify
from trainers.delta import DeltaTracker, dense_weights
from trainers.hand_down import CLOSED, HANDED, HandDown, HandDowns, HandDownStore
from trainers.learner import Learner
from trainers.ranks import Ranks
from trainers.schedule import Schedule
from trainers.take_over import Announced, TakeOver
from trainers.transfer import read_delta
from trainers.transfer_settings import ActrConfig

EVERY = 1_000  # ms
ROOM = 1024


def batch(seed: int, first_ms: int, step_ms: int = 1, late: int = 0) -> Batch:
    """SIZE impressions from ``first_ms`` on, the first ``late`` of them at 1 ms."""
    rows = impressions(seed, SIZE)
    time_B = torch.arange(SIZE).numpy() * step_ms + first_ms
    time_B[:late] = 1
    at = rows.schema.get_field_index(EVENT_TIME)
    rows = rows.set_column(at, rows.schema.field(at), pa.array(time_B))
    return Batch(rows, SourceRows(*[torch.zeros(SIZE).numpy()] * 3), {}, int(time_B.max()))


class Cpm:
    def __init__(self, folder, whole=False, afresh=False, keep=10, progress=None, early=()):
        self.learner = Learner(config(ROOM), SCHEMA)
        self.tracker = None if whole else DeltaTracker(self.learner)
        self.store = HandDownStore(folder, keep)
        self.store.prepare()
        self.announced, self.forgotten = [], []
        self.boundary = HandDowns(
            self.learner,
            self.tracker,
            self.store,
            Schedule(EVERY, early),
            Ranks(),
            self.announced.append,
            self.forgotten.append,
            afresh=afresh,
            progress=progress or Progress(),
        )
        self.marks = {}

    def take(self, *batches):
        for b in batches:
            if self.boundary.due(b):
                self.marks = self.boundary.act(b)
            self.learner.step(self.learner.to_batch(b.rows))
        return self


class Actr:
    def __init__(self, announced, marks=None, watermark=0, **settings):
        base = config(ROOM)
        self.config = ActrConfig(**{"device": "cpu", "transfer": "delta"} | settings)
        self.learner = Learner(base, SCHEMA)
        self.lines = []
        self.boundary = TakeOver(
            self.learner,
            self.config,
            announced,
            EVERY,
            Ranks(),
            self.lines.append,
            Progress(watermark=watermark, marks=marks or {}),
        )

    def offer(self, b):
        """Whether something was due before ``b``, and the marks then."""
        return self.boundary.act(b) if self.boundary.due(b) else None


def announced_by(cpm):
    announced = Announced()
    for hand_down in cpm.announced:
        announced.put(hand_down)
    return announced


def days(first, count, seed=0):
    return [batch(seed + i, first + i * 250) for i in range(count)]


@pytest.fixture
def cpm(tmp_path):
    """From 10,000 ms, four batches to a boundary: hand-downs of 11,000, 12,000 and 13,000."""
    return Cpm(tmp_path / "hand-downs").take(*days(10_000, 13))


def test_it_hands_down_at_every_boundary_what_was_learnt_before(cpm, tmp_path):
    begin, first, second, third = cpm.announced
    assert begin == HandDown(10_000, "begin")
    assert [h.boundary for h in (first, second, third)] == [11_000, 12_000, 13_000]
    assert [h.since for h in (first, second, third)] == [0, 11_000, 12_000]
    assert first.kind == "delta" and first.version == 3 and first.watermark < 11_000
    assert cpm.marks == {CLOSED: 13_000, HANDED: 13_000}
    assert verify(tmp_path / "hand-downs" / "11000").progress.step == 3
    assert HandDown.decode(first.encode()) == first


def test_several_boundaries_crossed_at_once_are_one_hand_down(tmp_path):
    cpm = Cpm(tmp_path).take(*days(10_000, 2), batch(9, 15_500))
    assert [(h.boundary, h.since) for h in cpm.announced] == [(10_000, 0), (15_000, 0)]


def test_an_early_hand_down_comes_besides_and_the_next_carries_the_rest(cpm, tmp_path):
    early = Cpm(tmp_path / "early", early=[12_300]).take(*days(10_000, 13))
    found = [(h.boundary, h.since) for h in early.announced[1:]]
    assert found == [(11_000, 0), (12_000, 11_000), (12_300, 12_000), (13_000, 12_300)]
    actr = Actr(announced_by(early))
    for first, taken in ((12_290, 12_000), (12_300, 12_300)):
        assert actr.offer(batch(50, first)) == {CLOSED: taken, HANDED: taken}
    parts = [read_delta(tmp_path / "early" / name).dense for name in ("12300", "13000")]
    whole = read_delta(tmp_path / "hand-downs" / "13000").dense
    assert not torch.equal(*(part["output.bias"] for part in parts))
    for name, change in whole.items():
        torch.testing.assert_close(sum(p[name] for p in parts), change, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_the_same_hand_down_made_again_has_the_same_bytes(whole, tmp_path):
    """As after a crash between a hand-down and the next checkpoint."""
    cpm = Cpm(tmp_path / "hand-downs", whole).take(*days(10_000, 13))
    files = sorted((tmp_path / "hand-downs").rglob("*"))
    before = {path: path.read_bytes() for path in files if path.is_file()}
    inodes = {path: path.stat().st_ino for path in before}
    again = Cpm(tmp_path / "hand-downs", whole).take(*days(10_000, 13))
    assert again.announced == cpm.announced
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_ino for path in before} == inodes, "left in place for readers"


def test_a_damaged_one_is_replaced_when_it_is_made_again(cpm, tmp_path):
    path = tmp_path / "hand-downs" / "12000" / "delta-00000.npz"
    path.write_bytes(path.read_bytes()[:-10])
    Cpm(tmp_path / "hand-downs").take(*days(10_000, 13))
    verify(path.parent)


def test_only_so_many_are_kept(tmp_path):
    cpm = Cpm(tmp_path, keep=2).take(*days(10_000, 17))
    assert cpm.store.boundaries() == [13_000, 14_000]
    assert cpm.forgotten == [11_000, 12_000]


def test_what_could_not_be_written_goes_with_the_next(tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError("No space left on device")

    cpm, whole = Cpm(tmp_path / "a"), Cpm(tmp_path / "b")
    stream = days(10_000, 9)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.hand_down.seal", full)
        cpm.take(*stream[:5])
    assert "No space left" in caplog.text and cpm.marks[HANDED] == 0
    assert not list((tmp_path / "a").iterdir())
    cpm.take(*stream[5:])
    whole.take(*stream)
    assert [(h.boundary, h.since) for h in cpm.announced[1:]] == [(12_000, 0)]
    sums = read_delta(tmp_path / "b" / "11000"), read_delta(tmp_path / "b" / "12000")
    for name, change in read_delta(tmp_path / "a" / "12000").dense.items():
        expected = sums[0].dense[name] + sums[1].dense[name]
        torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-5)


def test_from_scratch_every_window_begins_with_a_fresh_model(tmp_path):
    stream = days(10_000, 9)
    cpm = Cpm(tmp_path, whole=True, afresh=True).take(*stream[:8])
    assert [h.kind for h in cpm.announced] == ["begin", "full", "full"]
    window = Learner(config(ROOM), SCHEMA)
    learn(window, [b.rows for b in stream[7:8]])
    ours, theirs = tensors(cpm.learner), tensors(window)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_ctr_takes_each_hand_down_once_and_only_when_all_punctual_rows_are_beyond_it(cpm):
    actr = Actr(announced_by(cpm))
    assert actr.offer(batch(50, 9_000)) is None
    assert actr.offer(batch(51, 10_900)) == {CLOSED: 10_000, HANDED: 0}  # where CPM began
    assert actr.offer(batch(52, 11_200, late=5)) == {CLOSED: 11_000, HANDED: 11_000}
    assert actr.offer(batch(53, 11_500)) is None
    assert actr.offer(batch(54, 11_900)) is None  # some rows are of before 12,000
    assert actr.offer(batch(55, 12_400)) == {CLOSED: 12_000, HANDED: 12_000}
    assert len(actr.lines) == 2 and "changes of" in actr.lines[0]


def test_a_ctr_that_was_away_adds_up_to_cpm(cpm):
    actr = Actr(announced_by(cpm))
    assert actr.offer(batch(50, 13_100)) == {CLOSED: 13_000, HANDED: 13_000}
    cpm_at_13 = Learner(config(ROOM), SCHEMA)
    learn(cpm_at_13, [b.rows for b in days(10_000, 11)])
    for name, weight in dense_weights(cpm_at_13).items():
        ours = dense_weights(actr.learner)[name]
        torch.testing.assert_close(ours, weight, atol=1e-6, rtol=1e-5)


def test_after_a_restart_it_goes_on_with_the_next(cpm):
    marks = {CLOSED: 12_000, HANDED: 12_000}
    actr = Actr(announced_by(cpm), marks, watermark=12_900)
    assert actr.offer(batch(50, 12_950)) is None
    assert actr.offer(batch(51, 13_100)) == {CLOSED: 13_000, HANDED: 13_000}
    assert len(actr.lines) == 1


def test_hand_downs_that_are_gone_are_named_in_one_line(cpm):
    announced = announced_by(cpm)
    announced.drop(12_000)
    actr = Actr(announced, {CLOSED: 11_000, HANDED: 11_000})
    assert actr.offer(batch(51, 13_100)) == {CLOSED: 13_000, HANDED: 13_000}
    gone, taken = actr.lines
    assert "are gone: going on with" in gone and "changes of" in taken


def test_files_that_are_gone_or_damaged_are_named_and_left_out(cpm, tmp_path):
    path = tmp_path / "hand-downs" / "12000" / "delta-00000.npz"
    path.write_bytes(b"")
    actr = Actr(announced_by(cpm), {CLOSED: 11_000, HANDED: 11_000})
    assert actr.offer(batch(51, 13_100)) == {CLOSED: 13_000, HANDED: 13_000}
    assert "cannot be read" in actr.lines[0] and "changes of" in actr.lines[1]
    assert len(actr.lines) == 2


def test_a_cpm_that_began_anew_is_not_counted_twice(cpm):
    anew = dataclasses.replace(cpm.announced[3], since=0)
    announced = Announced()
    announced.put(anew)
    actr = Actr(announced, {CLOSED: 12_000, HANDED: 12_000})
    before = tensors(actr.learner)
    assert actr.offer(batch(51, 13_100)) == {CLOSED: 13_000, HANDED: 13_000}
    assert "left out" in actr.lines[0]
    assert all(torch.equal(before[n], now) for n, now in tensors(actr.learner).items())


def test_of_whole_models_only_the_newest_is_taken(tmp_path):
    cpm = Cpm(tmp_path, whole=True).take(*days(10_000, 13))
    actr = Actr(announced_by(cpm), transfer="reinitialize")
    assert actr.offer(batch(51, 13_100)) == {CLOSED: 13_000, HANDED: 13_000}
    assert len(actr.lines) == 1 and "the whole model in" in actr.lines[0]


def test_another_kind_than_asked_for_is_said_and_left_out(cpm):
    actr = Actr(announced_by(cpm), transfer="reinitialize")
    assert actr.offer(batch(51, 13_100)) == {CLOSED: 13_000, HANDED: 0}
    assert actr.lines == ["CPM hands down 'delta', not what actr.transfer asks for: left out"]


def test_waiting_for_what_is_due():
    announced = Announced()
    actr = Actr(announced)
    assert not actr.boundary.there(batch(1, 11_900), 0.0), "CPM has not begun"
    assert not actr.boundary.there(batch(1, 11_900), 0.0)
    assert len(actr.lines) == 1 and "waiting for" in actr.lines[0]
    announced.put(HandDown(10_000, "begin"))
    assert not actr.boundary.there(batch(1, 11_900), 0.0)
    announced.put(HandDown(11_000, "delta"))
    assert actr.boundary.there(batch(1, 11_900), 0.0)  # ends at 12,155, but needs only 11,000
    assert actr.boundary.there(batch(2, 12_156, late=10), 0.0) is False
    announced.put(HandDown(14_000, "delta", since=11_000))
    assert actr.boundary.there(batch(2, 12_156, late=10), 0.0)


@pytest.mark.parametrize("value", [b"{}", b"7", b"null", b"{", b'{"boundary": "x"}'])
def test_what_is_no_hand_down_is_an_error(value):
    with pytest.raises(ValueError):
        HandDown.decode(value)


def test_a_model_of_other_features_is_refused(cpm):
    actr = Actr(announced_by(cpm))
    actr.boundary._learner = Learner(config(ROOM, hidden=(8,)), SCHEMA)
    with pytest.raises(UserError, match="of another model"):
        actr.offer(batch(51, 11_100))
