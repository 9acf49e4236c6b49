import json

import pytest

from streaming.control import Request

REQUEST = Request("period", 1_700_000_000_000, "natural", "log_loss", "it changed")


def test_a_request_is_json_that_names_itself():
    fields = json.loads(REQUEST.encode())
    assert fields["id"] == REQUEST.id == "period/natural/log_loss/1700000000000"
    assert fields["at"] == 1_700_000_000_000 and fields["why"] == "it changed"
    assert Request.decode(REQUEST.encode()) == REQUEST


@pytest.mark.parametrize(
    "change",
    [
        {"ask": "coffee"},
        {"at": "yesterday"},
        {"at": 0},
        {"at": True},
        {"at": 2**60},
        {"domain": 7},
        {"why": None},
        {"why": "\ud800"},
        {"why": "\x1b[2J"},
        {"signal": "two\nlines"},
        {"domain": "x" * 201},
    ],
)
def test_what_nobody_can_be_asked_is_an_error(change):
    value = json.dumps(json.loads(REQUEST.encode()) | change).encode()
    with pytest.raises(ValueError):
        Request.decode(value)


@pytest.mark.parametrize("value", [None, b"", b"{", b"7", b"[]", b"{}", b"[" * 100_000])
def test_what_is_no_request_is_an_error(value):
    with pytest.raises(ValueError):
        Request.decode(value)
