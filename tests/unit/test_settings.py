"""File, environment, flags: precedence, origins, and errors that name the way out."""

from pathlib import Path

import pytest
from pydantic import Field

from config import Config
from errors import UserError
from settings import Section, keys, load


class Inner(Section):
    size: int = Field(3, ge=1)
    """A size."""
    names: tuple[str, ...] = ("a",)
    """Names."""
    options: dict[str, str] = Field(default_factory=dict)
    """Anything."""


class Outer(Section):
    title: str = "none"
    """A title."""
    inner: Inner = Inner()


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text('title = "file"\n[inner]\nsize = 5\noptions = {x = "1"}\n')
    return path


def test_each_layer_wins_over_the_one_before_and_says_so(toml):
    environ = {"ECDCTR_INNER__SIZE": "6", "ECDCTR_TITLE": "environment"}
    loaded = load(Outer, toml, environ, ["inner.size=7"])
    assert (loaded.config.inner.size, loaded.config.title) == (7, "environment")
    assert loaded.origin("inner.size") == "--set inner.size"
    assert loaded.origin("title") == "$ECDCTR_TITLE"
    assert loaded.origin("inner.options.x") == str(toml)
    assert loaded.origin("inner.names") == "default"


def test_values_in_text_are_read_as_their_type():
    loaded = load(Outer, None, {}, ['inner.names=["x", "y"]', "inner.options.k=v", "title=12"])
    assert loaded.config.inner.names == ("x", "y")
    assert loaded.config.inner.options == {"k": "v"}
    assert loaded.config.title == "12"


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({}, ["inner.sise=1"], "did you mean inner.size"),
        ({}, ["size=1"], "did you mean inner.size"),
        ({"ECDCTR_INNER__SIZ": "1"}, [], r"\$ECDCTR_INNER__SIZ.*did you mean inner.size"),
        ({}, ["inner.size=many"], "--set inner.size.*integer"),
        ({}, ["inner.size=0"], "greater than or equal to 1"),
        ({}, ["inner.size"], "expected key=value"),
        ({}, ["inner=1"], "unknown key 'inner'"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(environ, flags, message):
    with pytest.raises(UserError, match=message) as caught:
        load(Outer, None, environ, flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("titel = 1", "did you mean title"), ("title = ", "not a readable TOML"), (None, "no config")],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "c.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(Outer, path, {})


def test_checks_across_fields_reach_the_user():
    with pytest.raises(UserError, match="rows = 1001 is not a multiple"):
        load(Config, None, {}, ["actr.model.ids.rows=1001"])
    with pytest.raises(UserError, match="must name a required single id feature"):
        load(Config, None, {}, ["impressions.user=nobody"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("topics.dead_letter=impressions.ad", "topics.ad and topics.dead_letter are both"),
        ("actr.model.tables.nosuch.rows=8", "no feature has that table"),
        ("actr.model.hidden=[0]", "greater than or equal to 1"),
        ("actr.seed=1e30", "seed"),
        ("actr.model.ids.rows=800000000000000000000", "less than or equal to"),
        ("reader.begin=-5", "reader.begin"),
        (
            'impressions.features=[{name="user_id",kind="id"},{name="type",kind="id"}]',
            "a table cannot be called 'type'",
        ),
    ],
)
def test_what_would_fail_later_is_refused_at_once(flag, message):
    with pytest.raises(UserError, match=message) as caught:
        load(Config, None, {}, [flag])
    assert "\n" not in str(caught.value)


def test_every_setting_is_documented():
    undocumented = [key for key, field in keys(Config).items() if not field.description]
    assert undocumented == []
