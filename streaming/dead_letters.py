"""Dead letters: what could not be used, with its bytes, where it came from and why.

On the wire a letter is one record, or several where its bytes come close to the
broker's message limit; its headers say everything but the bytes:

    source-topic, source-partition, source-offset   where it came from
    source-rows       rows of that record, such as ``3,7-9``; empty: the whole record
    reason, detail    why
    count             impressions affected
    content-type      as received, if it was
    original-<name>   every other header as received
    part              ``2/3``: the second of three pieces of the bytes

A letter that was sent back is followed by a *mark*: the same headers, an empty
value, and ``resent-at``, ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from streaming.codec import CONTENT_TYPE, Bad, Headers
from streaming.validation import Reason

MAX_RECORD_BYTES = 900_000
"""Value and headers together; brokers take 1,048,576 by default."""
_MIN_PART_BYTES = 100_000
_MAX_HEADER_BYTES = 200_000  # of headers together, and of a key
_HEADER_OVERHEAD = 8 + len("original-")
_ORIGINAL = "original-"
RESENT_AT = "resent-at"

Record = tuple[bytes, list[tuple[str, bytes]]]
"""Value and headers of a record of the dead-letter topic."""


@dataclass(frozen=True)
class DeadLetter:
    topic: str
    partition: int
    offset: int
    rows: str
    """Rows of the source record, as ranges such as `3,7-9`; empty: the whole record."""
    reason: Reason
    count: int
    """Impressions affected."""
    value: bytes
    detail: str = ""
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = field(default=(), compare=False)
    """As the source record had them, the content type among them."""

    @property
    def identity(self) -> tuple[str, int, int, str, str]:
        """The same for a letter written twice, by a restarted reader or by two levels."""
        return (self.topic, self.partition, self.offset, self.reason.value, self.rows)

    def records(self, limit: int = MAX_RECORD_BYTES) -> list[Record]:
        """The records to write, in order; all of them take :attr:`key`."""
        headers = self._headers()
        room = max(limit - _size(headers) - len(self.key or b""), _MIN_PART_BYTES)
        if len(self.value) <= room:
            return [(self.value, headers)]
        starts = range(0, len(self.value), room)
        return [
            (self.value[start : start + room], [*headers, _text("part", f"{i}/{len(starts)}")])
            for i, start in enumerate(starts, 1)
        ]

    def mark(self, resent_at_ms: int) -> Record:
        """The record that says that this letter was sent back."""
        # Empty and not null: Kafka's client takes no record with neither key nor value.
        return b"", [*self._headers(), _text(RESENT_AT, str(resent_at_ms))]

    def _headers(self) -> list[tuple[str, bytes]]:
        return [
            _text("source-topic", self.topic),
            _text("source-partition", str(self.partition)),
            _text("source-offset", str(self.offset)),
            _text("source-rows", self.rows),
            _text("reason", self.reason.value),
            _text("detail", self.detail),
            _text("count", str(self.count)),
            *kept_headers(self.headers),
        ]


def kept_headers(headers: Headers) -> list[tuple[str, bytes]]:
    """Headers of a record as another record carries them on: the content type as it is."""
    return [
        (name if name == CONTENT_TYPE else f"{_ORIGINAL}{name}", content)
        for name, content in headers
    ]


def _fitting(
    key: bytes | None, headers: Headers
) -> tuple[bytes | None, list[tuple[str, bytes]], str]:
    """Key and headers as far as they leave room for a part of the bytes, and what was left out.

    A broker's limit holds for a record as a whole, and its key and headers cannot be split.
    """
    kept, left_out, size = [], [], 0
    # A header without content is null on the wire, and no letter needs it.
    for name, content in ((n, c) for n, c in headers if c is not None):
        size += len(name) + len(content) + _HEADER_OVERHEAD
        if size <= _MAX_HEADER_BYTES:
            kept.append((name, content))
    if size > _MAX_HEADER_BYTES:
        left_out.append(f"{len(headers) - len(kept)} headers left out")
    if key is not None and len(key) > _MAX_HEADER_BYTES:
        left_out.append(f"key of {len(key)} bytes cut")
        key = key[:_MAX_HEADER_BYTES]
    return key, kept, "; ".join(left_out)


def dead_letter(
    bad: Bad, topic: str, partition: int, offset: int, key: bytes | None, headers: Headers
) -> DeadLetter:
    """The letter for what :func:`streaming.codec.decode` found bad in one record."""
    key, kept, left_out = _fitting(key, headers)
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=offset,
        rows=format_rows(bad.rows),
        reason=bad.reason,
        count=bad.count,
        value=bad.value,
        detail="; ".join(filter(None, (bad.detail, left_out))),
        key=key,
        headers=tuple(kept),
    )


class Assembly:
    """Letters from records of the dead-letter topic, parts in any order, repeats left out.

    Records that are not dead letters are counted in :attr:`foreign`.
    """

    def __init__(self) -> None:
        self.resent: set[tuple[str, int, int, str, str]] = set()
        """Identities of letters that were sent back."""
        self.foreign = 0
        self._seen: set[tuple[str, int, int, str, str]] = set()
        self._parts: dict[tuple[tuple[str, int, int, str, str], int], dict[int, bytes]] = {}

    @property
    def incomplete(self) -> int:
        """Letters of which some part was not met."""
        return len(self._parts)

    def add(self, value: bytes | None, headers: Headers, key: bytes | None) -> DeadLetter | None:
        """The letter that this record completes, if it does and was not met before."""
        named = dict(headers)
        try:
            letter = _parse(value, headers, named, key)
            part, _, parts = named.get("part", b"1/1").decode().partition("/")
            part_i, parts_n = int(part), int(parts)
        except (KeyError, ValueError, AttributeError, TypeError):  # null headers, too
            self.foreign += 1
            return None
        if RESENT_AT in named:
            self.resent.add(letter.identity)
            return None
        if letter.identity in self._seen:
            return None
        if parts_n > 1:
            pieces = self._parts.setdefault((letter.identity, parts_n), {})
            pieces[part_i] = letter.value
            if len(pieces) < parts_n:
                return None
            whole = b"".join(pieces[i] for i in sorted(pieces))
            del self._parts[letter.identity, parts_n]
            letter = replace(letter, value=whole)
        self._seen.add(letter.identity)
        return letter


def _parse(
    value: bytes | None, headers: Headers, named: dict[str, bytes], key: bytes | None
) -> DeadLetter:
    originals = []
    for name, content in headers:
        if name == CONTENT_TYPE or name.startswith(_ORIGINAL):
            originals.append((name.removeprefix(_ORIGINAL), content))
    return DeadLetter(
        topic=named["source-topic"].decode(),
        partition=int(named["source-partition"]),
        offset=int(named["source-offset"]),
        rows=named["source-rows"].decode(),
        reason=Reason(named["reason"].decode()),
        count=int(named["count"]),
        value=value or b"",
        detail=named.get("detail", b"").decode(errors="replace"),
        key=key,
        headers=tuple(originals),
    )


def format_rows(rows: np.ndarray) -> str:
    """``[3, 7, 8, 9]`` is ``3,7-9``; rows are in rising order."""
    if not len(rows):
        return ""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return ",".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def parse_rows(text: str) -> np.ndarray:
    """The int32 rows that :func:`format_rows` wrote."""
    rows: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        rows.extend(range(int(first), int(last or first) + 1))
    return np.array(rows, dtype=np.int32)


def _text(name: str, content: str) -> tuple[str, bytes]:
    return name, content.encode()


def _size(headers: Iterable[tuple[str, bytes]]) -> int:
    return sum(len(name.encode()) + len(content) + 10 for name, content in headers)
