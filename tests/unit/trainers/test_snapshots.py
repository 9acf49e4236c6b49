"""TPM's periods over a model that learns: who is in a snapshot, with which vector, and when."""

import numpy as np
import pyarrow as pa
import pytest
from synthetic_stream import impressions
from torch.distributed._shard.sharded_tensor import ShardedTensor

from embeddings.history import KINDS, bucket_of, empty_window, merge, publish
from embeddings.history_records import encode_snapshot
from embeddings.history_settings import HistoryConfig
from embeddings.history_store import HistoryStore
from embeddings.ids import ID_SPACE, gather
from errors import UserError
from streaming.impressions import Batch, Feature, ImpressionSchema, SourceRows
from trainers.learner import Learner, write_state
from trainers.ranks import Ranks
from trainers.schedule import Schedule
from trainers.seen import Seen, read_seen, write_seen
from trainers.settings import LevelConfig, ModelConfig, TableConfig
from trainers.snapshots import Snapshots

SIZE, BUCKETS = 64, 4
SCHEMA = ImpressionSchema().basics()
MODEL = ModelConfig(
    dim=8, eviction_interval=3, ids=TableConfig(rows=128), hidden=(8,), cross_layers=0
)
CONFIG = LevelConfig(batch_size=SIZE, device="cpu", model=MODEL)
HISTORY = HistoryConfig(period_hours=4 / 3_600, buckets=BUCKETS)
PERIOD = HISTORY.period_ms
START = 1_700_000_000_000  # the beginning of a period
COLUMNS = {"user": ["user_id"], "item": ["item_id"]}


def batch(seed: int, begin: int, end: int, watermark: int | None = None) -> Batch:
    """Impressions with event times strewn over [begin, end), in any order; both are
    thousandths of a period after START."""
    rows = impressions(seed, SIZE, users=400, items=200)
    span = np.array([begin, end]) * PERIOD // 1_000
    times = START + np.random.default_rng(seed).integers(*span, SIZE)
    at = rows.schema.get_field_index("event_time")
    rows = rows.set_column(at, rows.schema.field(at), pa.array(times))
    source = SourceRows(np.zeros(SIZE, np.int32), np.zeros(SIZE, np.int64), np.zeros(SIZE))
    return Batch(rows, source, {}, watermark=max(watermark or 0, int(times.max())))


def stream(count: int = 40, step: int = 130) -> list[Batch]:
    """A watermark that rises; event times go back by up to a batch's own span."""
    made, watermark = [], 0
    for i in range(count):
        made.append(batch(i, step * i - 60, step * i + 200, watermark))
        watermark = made[-1].watermark
    return made


class Life:
    """A learner and its periods, driven as the loop drives them."""

    def __init__(self, schema=SCHEMA, config=CONFIG, closed=0, resumed=None, early=()):
        self.sent, self.told, self.tables, self.vectors = [], [], [], {}
        self.learner = Learner(config, schema)
        if resumed is not None:
            self.learner.load(resumed)
        self.periods = Snapshots(
            self.learner,
            schema,
            HISTORY,
            Ranks(),
            send=self.sent.append,
            told=self.told.append,
            closed=closed,
            seen=read_seen(resumed) if resumed is not None else None,
            schedule=Schedule(PERIOD, early),
        )
        self.marks = {}

    def learn(self, batches):
        return self.learner.steps(self.learner.to_batch(b.rows) for b in batches)

    def take(self, one: Batch):
        if self.periods.due(one):
            before = len(self.sent)
            rows = {kind: table_of(self.learner, kind) for kind in KINDS}
            self.marks = self.periods.act(one)
            for snapshot in self.sent[before:]:
                self.vectors[snapshot.period_end, snapshot.kind] = rows[snapshot.kind]
        list(self.periods.watching(self.learn)([one]))

    def run(self, batches):
        for one in batches:
            self.take(one)
        return self

    def checkpoint(self, folder):
        folder.mkdir()
        write_state(self.learner.snapshot(), folder)
        write_seen(self.periods.state(), folder, 0)


def table_of(learner: Learner, kind: str) -> dict[int, np.ndarray]:
    """Raw id to its row, read without what the trainer reads it with."""
    table = f"{kind}_id"
    state = {name: t for name, t in learner.state().items() if f".{table}." in name}
    state = {
        name: (t.local_shards()[0].tensor if isinstance(t, ShardedTensor) else t).detach().numpy()
        for name, t in state.items()
    }
    (ids,) = (t for name, t in state.items() if name.endswith("_mch_sorted_raw_ids"))
    (rows,) = (t for name, t in state.items() if name.endswith("_mch_remapped_ids_mapping"))
    weights = state[f"model.managed._embedding_module.embedding_bags.{table}.weight"]
    used = ids != ID_SPACE
    return {
        int(raw): weights[row].astype(np.float16).copy()
        for raw, row in zip(gather(ids[used]), rows[used], strict=True)
    }


def bytes_of(life: Life) -> list[bytes]:
    return [encode_snapshot(snapshot) for snapshot in life.sent]


def ids_by_period(batches: list[Batch], columns: list[str]) -> dict[int, set[int]]:
    """Period end to who was seen on time: before the watermark was beyond that end."""
    found: dict[int, set[int]] = {}
    watermark = 0
    for one in batches:
        times = one.rows.column("event_time").to_numpy()
        ends = (times // PERIOD + 1) * PERIOD
        for column in columns:
            values = one.rows.column(column)
            for end, value in zip(ends.tolist(), values.to_pylist(), strict=True):
                if end > watermark and value is not None:
                    found.setdefault(end, set()).update(value if type(value) is list else [value])
        watermark = one.watermark
    return found


@pytest.fixture(scope="module")
def whole():
    return Life().run(stream())


def test_every_period_has_all_buckets_of_both_kinds(whole):
    ends = sorted({s.period_end for s in whole.sent})
    assert ends == [START + PERIOD * i for i in range(1, 6)]
    expected = [(end, kind, b) for end in ends for kind in KINDS for b in range(BUCKETS)]
    assert [(s.period_end, s.kind, s.bucket) for s in whole.sent] == expected
    assert whole.marks == {"period": ends[-1]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_holds_who_was_seen_and_what_the_table_says(whole, kind):
    seen = ids_by_period(stream(), COLUMNS[kind])
    left_out = 0
    for end in sorted({s.period_end for s in whole.sent}):
        table = whole.vectors[end, kind]
        snapshots = [s for s in whole.sent if (s.period_end, s.kind) == (end, kind)]
        found = {
            int(raw): vector
            for s in snapshots
            for raw, vector in zip(s.ids_N, s.vectors_ND, strict=True)
        }
        assert found.keys() == seen[end] & table.keys()
        assert all(np.array_equal(found[raw], table[raw]) for raw in found)
        for s in snapshots:
            assert (bucket_of(s.ids_N, BUCKETS) == s.bucket).all()
        left_out += len(table.keys() - seen[end]) + len(seen[end] - table.keys())
    assert left_out > 0, "not everybody with a row was seen, not everybody seen has one"


def test_it_tells_what_was_sent(whole):
    for closed in whole.told:
        for kind in KINDS:
            own = [s for s in whole.sent if (s.period_end, s.kind) == (closed.period_end, kind)]
            assert closed.entities[kind] == sum(len(s.ids_N) for s in own) > 0


def test_the_batch_beyond_the_end_is_not_yet_learnt_but_its_users_were_seen():
    life = Life()
    life.run([batch(i, 0, 500) for i in range(4)])
    table = table_of(life.learner, "user")
    last = batch(9, 970, 1_030)
    life.take(last)
    sent = {int(raw) for s in life.sent if s.kind == "user" for raw in s.ids_N}
    times = last.rows.column("event_time").to_numpy()
    users = last.rows.column("user_id").to_numpy()
    before = set(users[times < START + PERIOD].tolist()) & table.keys()
    only_here = (
        before - ids_by_period([batch(i, 0, 500) for i in range(4)], ["user_id"])[START + PERIOD]
    )
    assert before <= sent and len(before) > len(only_here)
    assert all(
        np.array_equal(vector, table[int(raw)])
        for s in life.sent
        if s.kind == "user"
        for raw, vector in zip(s.ids_N, s.vectors_ND, strict=True)
    )


def test_late_impressions_reopen_nothing_and_are_in_no_later_period(tmp_path):
    on_time = [batch(i, 100 * i, 100 * i + 90) for i in range(14)]
    late = [batch(100 + i, -5_000, 0, on_time[-1].watermark) for i in range(6)]
    rest = [batch(i, 100 * i, 100 * i + 90) for i in range(14, 25)]
    life = Life()
    life.run(on_time)
    closed, sent = life.periods.closed, len(life.sent)
    life.run(late)
    assert (life.periods.closed, len(life.sent)) == (closed, sent)
    assert life.learner.steps_done == len(on_time) + len(late), "they are learnt all the same"
    life.run(rest)
    seen = ids_by_period(on_time + late + rest, ["user_id"])
    second = {int(i) for s in life.sent[sent:] if s.kind == "user" for i in s.ids_N}
    assert second == seen[START + 2 * PERIOD] & life.vectors[START + 2 * PERIOD, "user"].keys()
    lately = {i for one in late for i in one.rows.column("user_id").to_pylist()}
    assert (lately & life.vectors[START + 2 * PERIOD, "user"].keys()) - second, "some have rows"


def test_a_gap_in_the_log_closes_empty_periods_too():
    life = Life()
    life.run([batch(0, 0, 900), batch(1, 3_000, 3_090)])
    assert [c.period_end for c in life.told] == [START + PERIOD * i for i in (1, 2, 3)]
    assert len(life.sent) == 3 * 2 * BUCKETS
    assert all(not len(s.ids_N) and s.dim == 8 for s in life.sent if s.period_end > START + PERIOD)


def test_an_early_end_divides_who_was_seen_and_moves_no_other_end(whole):
    early = START + PERIOD + 400 * PERIOD // 1_000
    divided = Life(early=[early]).run(stream())
    ends = sorted({s.period_end for s in whole.sent})
    assert sorted({s.period_end for s in divided.sent}) == sorted([*ends, early])
    for kind in KINDS:
        for begin, end in ((ends[0], early), (early, ends[1])):
            seen = seen_between(stream(), f"{kind}_id", begin, end)
            assert ids_of(divided, end, kind) == seen & divided.vectors[end, kind].keys() != set()
    before, after = (
        [
            b
            for b, s in zip(bytes_of(life), life.sent, strict=True)
            if s.period_end not in (early, ends[1])
        ]
        for life in (whole, divided)
    )
    assert before == after


def test_readers_see_an_early_end_from_its_time_on_and_not_before():
    early, store = START + PERIOD // 2, HistoryStore.of(HISTORY, 8)
    life = Life(early=[early]).run(stream())
    windows = {}
    for snapshot in life.sent:
        bucket = (snapshot.kind, snapshot.bucket)
        window = windows.get(bucket) or empty_window(HISTORY.window, 8)
        windows[bucket] = merge(window, snapshot)
        if snapshot.period_end <= START + PERIOD:
            store.apply({bucket: publish(windows[bucket], HISTORY)})
    ids_N = np.array(sorted(ids_of(life, early, "user")))
    for time, known in ((early - 1, 0), (early, len(ids_N))):
        _, mask_NS = store.lookup("user", ids_N, np.full(len(ids_N), time))
        assert mask_NS.sum() == known


def seen_between(batches, column, begin, end):
    """Ids with an event time in [begin, end), in batches that come while the end is open."""
    found, watermark = set(), 0
    for one in batches:
        times, ids = (one.rows.column(n).to_numpy() for n in ("event_time", column))
        if watermark < end:
            found |= set(ids[(times >= begin) & (times < end)].tolist())
        watermark = one.watermark
    return found


def ids_of(life, end, kind):
    """Raw ids in the snapshot of the period that ends at ``end``, ms."""
    sent = [s for s in life.sent if (s.period_end, s.kind) == (end, kind)]
    return {int(raw) for s in sent for raw in s.ids_N}


def test_a_log_begins_in_the_middle_of_history():
    life = Life()
    life.take(batch(0, 100, 900))
    assert life.marks == {"period": START} and not life.sent


@pytest.mark.parametrize("stop", [3, 7, 8, 20])
def test_going_on_from_a_checkpoint_sends_the_same_bytes(whole, tmp_path, stop):
    first = Life().run(stream()[:stop])
    first.checkpoint(tmp_path / "state")
    second = Life(closed=first.marks["period"], resumed=tmp_path / "state")
    second.run(stream()[stop:])
    assert bytes_of(first) + bytes_of(second) == bytes_of(whole)


def test_closing_a_period_again_sends_the_same_bytes(tmp_path):
    first = Life().run(stream()[:7])
    first.checkpoint(tmp_path / "state")
    lives = [Life(closed=START, resumed=tmp_path / "state").run(stream()[7:9]) for _ in range(2)]
    assert bytes_of(lives[0]) == bytes_of(lives[1]) and lives[0].sent


def test_forgetting_who_has_no_row_changes_nothing(whole, monkeypatch):
    monkeypatch.setattr(Seen, "crowded", property(lambda self: True))
    tidy = Life()
    for one in stream():
        tidy.take(one)
        held = max(sum(map(len, parts)) for parts in tidy.periods.state().values())
        # Who has a row, and who was seen since the last round.
        assert held <= MODEL.ids.rows + SIZE * MODEL.eviction_interval
    assert bytes_of(tidy) == bytes_of(whole)


def test_an_item_in_a_list_that_tpm_reads_counts_as_seen():
    features = [
        *SCHEMA.features,
        Feature(name="recent_items", kind="id", multi=True, table="item_id"),
    ]
    life = Life(schema=ImpressionSchema(features=tuple(features)))
    life.run(stream()[:12])
    columns = ["item_id", "recent_items"]
    first = {int(i) for s in life.sent if s.kind == "item" for i in s.ids_N}
    assert (
        first
        == ids_by_period(stream(), columns)[START + PERIOD]
        & life.vectors[START + PERIOD, "item"].keys()
    )
    assert first - ids_by_period(stream(), ["item_id"])[START + PERIOD]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_vectors_that_do_not_fit_are_not_sent():
    life = Life().run(stream()[:4])
    for name, tensor in life.learner.state().items():
        if name.endswith("embedding_bags.item_id.weight"):
            tensor.local_shards()[0].tensor.detach().fill_(1e6)
    with pytest.raises(UserError, match="too large to publish"):
        life.run(stream()[4:10])
    assert all(s.kind == "user" for s in life.sent)
