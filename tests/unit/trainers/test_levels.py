import pyarrow as pa
import pytest
from pydantic import ValidationError

from config import Config
from streaming.impressions import Feature, ImpressionSchema
from trainers.levels import NAMES, level


def test_every_level_has_topics_of_its_own():
    levels = [level(name, Config()) for name in NAMES]
    assert [found.name for found in levels] == list(NAMES)
    for topic in ("predictions", "models"):
        assert len({getattr(found, topic) for found in levels}) == len(NAMES)


def test_tpm_reads_natural_impressions_and_their_basic_features():
    tpm = level("tpm", Config())
    assert tpm.topic == "impressions.natural" and tpm.snapshots == "tpm.snapshots"
    assert [f.name for f in tpm.schema.features] == ["user_id", "item_id", "segment", "category"]


def test_actr_reads_everything_and_publishes_no_vectors():
    actr = level("actr", Config())
    assert actr.schema == Config().impressions and not actr.snapshots


def test_tpm_is_tiny_unless_told_otherwise():
    model = Config(tpm={"batch_size": 64}).tpm.model
    assert (model.hidden, model.cross_layers) == ((32,), 0)
    assert Config(tpm={"model": {"hidden": [8]}}).tpm.model.cross_layers == 0


def test_user_and_item_are_basic_whatever_is_declared():
    schema = ImpressionSchema(
        features=(
            Feature(name="age", kind="numeric"),
            Feature(name="who", kind="id", table="people"),
            Feature(name="what", kind="id"),
            Feature(name="where", kind="categorical", basic=True),
        ),
        user="who",
        item="what",
        max_rows=7,
    )
    assert isinstance(schema.arrow, pa.Schema)  # made once, of all features
    basics = schema.basics()
    assert [f.name for f in basics.features] == ["who", "what", "where"]
    assert basics.arrow.names[-3:] == ["who", "what", "where"]
    assert (basics.user, basics.item, basics.max_rows) == ("who", "what", 7)
    assert basics.entity_tables == ("people", "what")
    assert basics.basics() == basics


def test_a_table_of_tpm_must_be_one_that_it_reads():
    with pytest.raises(ValidationError, match=r"tpm.model.tables.creative_id: no feature"):
        Config(tpm={"model": {"tables": {"creative_id": {}}}})


@pytest.mark.parametrize(
    "model",
    [{"ids": {"vocabulary": "hashed"}}, {"tables": {"item_id": {"vocabulary": "hashed"}}}],
)
def test_tpm_keeps_users_and_items_apart(model):
    with pytest.raises(ValidationError, match="must be managed"):
        Config(tpm={"model": model})


@pytest.mark.parametrize(
    ("history", "slots", "aggregation"),
    [
        ({"aggregation": "attention", "periods": 4}, 4, "attention"),
        ({"aggregation": "recency", "periods": 4}, 1, "mean"),
    ],
)
def test_a_level_that_reads_the_history_has_room_for_it(history, slots, aggregation):
    config = Config(actr={"history": True}, tpm={"model": {"dim": 8}}, history=history)
    model = level("actr", config).config.model
    assert (model.history_slots, model.history_width) == (slots, 8)
    assert model.history_aggregation == aggregation
    assert model.dim == config.actr.model.dim


def test_without_the_switch_there_is_no_room_for_a_history():
    assert level("actr", Config()).config.model.history_slots == 0


def test_tpm_does_not_read_what_it_makes():
    with pytest.raises(ValidationError, match="tpm.history"):
        Config(tpm={"history": True})
