"""One partition's share of the refresher's table, and what is to be published of it.

The table is a cache of what `tpm.snapshots` says, and knows how far it is. A partition
has one row for each bucket that was met, and one for its position:

    3/position    {"next": 42, "offsets": {"user/7": 41, ...}, "settings": {...}}
    3/user/7      41 | the bucket's window

A bucket's row starts with the offset of the last snapshot merged into it, which the
position repeats. So a table that has lost rows, or is older in some rows than in others,
is found out, and made anew from the snapshots, which are the truth.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import orjson

from embeddings.history import Snapshot, Window, bucket_of, empty_window, expire, merge, publish
from embeddings.history_records import (
    Headers,
    decode_window,
    encode_window,
    parse_key,
    record_key,
    window_headers,
)
from embeddings.history_settings import HistoryConfig
from errors import UserError

_OFFSET = struct.Struct("<q")


class Outcome(StrEnum):
    """What became of a snapshot: a metric label, so a fixed set."""

    MERGED = "merged"
    REPEATED = "repeated"
    """All that it says was known."""
    OLD = "old"
    """For a period that all its entities have newer ones than, or beyond the TTL."""
    UNUSABLE = "unusable"
    """A dead letter."""


@dataclass(frozen=True)
class Published:
    """A record of historical embeddings; without a value: a tombstone."""

    key: bytes
    value: bytes | None
    headers: Headers


class Shard:
    """A partition of `tpm.snapshots` as far as it was merged; ``table`` holds it all.

    Call :meth:`recover` before anything else.
    """

    def __init__(
        self,
        partition: int,
        table: MutableMapping[bytes, bytes],
        config: HistoryConfig,
        max_bytes: int = 1_000_000,
    ) -> None:
        self.partition = partition
        self.windows: dict[bytes, Window] = {}
        """Record key to the bucket's window."""
        self.next_offset = 0
        """Of the first snapshot that was not merged."""
        self.publish_from = 0
        """Nothing is published before this offset is reached: readers would go back in time."""
        self._table, self._config, self._max_bytes = table, config, max_bytes
        self._offsets: dict[bytes, int] = {}
        self._unpublished: set[bytes] = set()
        self._expired_at = 0

    # -- beginning ------------------------------------------------------------------

    def recover(self, first: int, end: int) -> str:
        """Go on from the table where it can be believed, else from offset ``first``.

        Everything is published again when ``end`` is reached: what others were told
        by whoever had the partition before is not known.

        Args:
            first: offset of the oldest snapshot that still exists.
            end: offset of the next snapshot to be written.

        Returns:
            what is wrong with the table (it "is empty"); nothing: it was believed.
        """
        try:
            trouble = self._load(end)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            trouble = f"cannot be read ({error})"
        if trouble:
            self.windows, self._offsets, self.next_offset = {}, {}, first
        self.next_offset = max(self.next_offset, first)
        self.publish_from = end
        self._unpublished = set(self.windows)
        return trouble

    def _load(self, end: int) -> str:
        stored = self._table.get(self._row("position"))
        if stored is None:
            return "is empty"
        position = orjson.loads(stored)
        if position["settings"] != self._settings():
            return "was made with other settings of [history]"
        if position["next"] > end:
            return f"is ahead of the snapshots (offset {position['next']} of {end})"
        self.next_offset = position["next"]
        self._offsets = {name.encode(): offset for name, offset in position["offsets"].items()}
        for key, offset in self._offsets.items():
            row = self._table.get(self._row(key.decode()))
            if row is None or _OFFSET.unpack_from(row)[0] != offset:
                return f"has lost what was kept of {key.decode()}"
            self.windows[key] = decode_window(row[_OFFSET.size :])[2]
        return ""

    # -- merging --------------------------------------------------------------------

    def take(self, offset: int, snapshot: Snapshot, now_ms: int) -> Outcome:
        """Merge what stands at ``offset``; the table is written.

        Raises:
            ValueError: a snapshot that does not fit the configuration or its bucket's width.
            UserError: the bucket has outgrown a message.
        """
        self._check(snapshot)
        key = record_key(snapshot.kind, snapshot.bucket)
        before = self.windows.get(key)
        if before is None:
            before = empty_window(self._config.window, snapshot.dim)
        after = expire(merge(before, snapshot), now_ms, self._config.ttl_ms)
        self._keep(key, after, offset)
        self.skip(offset)
        if not same(before, after):
            return Outcome.MERGED
        known = (before.period_ends_NH == snapshot.period_end).any()
        return Outcome.REPEATED if known or not len(snapshot.ids_N) else Outcome.OLD

    def _check(self, snapshot: Snapshot) -> None:
        buckets = self._config.buckets
        if snapshot.bucket >= buckets:
            raise ValueError(f"bucket {snapshot.bucket} of {buckets} (history.buckets)")
        if (bucket_of(snapshot.ids_N, buckets) != snapshot.bucket).any():
            raise ValueError(f"ids of other buckets than {snapshot.bucket} (history.buckets)")

    def skip(self, offset: int) -> None:
        """What stands at ``offset`` is done with, whatever it was."""
        self.next_offset = offset + 1
        self._keep_position()

    def _keep_position(self) -> None:
        position = {
            "next": self.next_offset,
            "offsets": {key.decode(): at for key, at in self._offsets.items()},
            "settings": self._settings(),
        }
        # Last of the rows, at every step: compaction never takes a changelog's newest record,
        # and recovery would wait for it forever.
        self._table[self._row("position")] = orjson.dumps(position)

    def expire(self, now_ms: int) -> int:
        """Forget what is beyond the TTL at ``now_ms``; buckets changed. The table is written."""
        last_ms, self._expired_at = self._expired_at, max(self._expired_at, now_ms)
        changed = 0
        for key, window in list(self.windows.items()) if now_ms > last_ms else ():
            left = expire(window, now_ms, self._config.ttl_ms)
            if left is not window:
                self._keep(key, left, self._offsets[key])
                changed += 1
            if self._is_over(left, now_ms) and not self._is_over(window, last_ms):
                self._unpublished.add(key)
        if changed:
            self._keep_position()
        return changed

    def _keep(self, key: bytes, window: Window, offset: int) -> None:
        kind, bucket = parse_key(key)
        row = _OFFSET.pack(offset) + encode_window(kind, bucket, window)
        if len(row) > self._max_bytes:
            raise UserError(
                f"the history of {key.decode()} has {len(row):,} bytes and does not fit a message: "
                "raise history.buckets (with topics that are made anew), or the broker's message "
                "limit and kafka.options.max_request_size"
            )
        self._table[self._row(key.decode())] = row
        # Views of the row's bytes: the vectors are in memory once.
        self.windows[key] = decode_window(row[_OFFSET.size :])[2]
        self._offsets[key] = offset
        self._unpublished.add(key)

    # -- publishing -----------------------------------------------------------------

    def due(self, now_ms: int) -> Iterator[Published]:
        """What readers have to be told; :meth:`published` says that they were."""
        if self.next_offset < self.publish_from:
            return
        for key in sorted(self._unpublished):
            yield self._record(key, now_ms)

    def published(self, key: bytes) -> None:
        self._unpublished.discard(key)

    def publish_again(self) -> None:
        """Somebody else has written where only we should: say everything anew."""
        self._unpublished = set(self.windows)

    def _record(self, key: bytes, now_ms: int) -> Published:
        kind, bucket = parse_key(key)
        window = self.windows[key]
        headers = window_headers(kind, bucket, window)
        if self._is_over(window, now_ms):
            return Published(key, None, headers)
        return Published(key, encode_window(kind, bucket, publish(window, self._config)), headers)

    def _is_over(self, window: Window, now_ms: int) -> bool:
        """Nobody left, nor any word of the bucket within the TTL.

        A bucket without entities that snapshots still speak of has a record: readers
        could not tell otherwise that a period is complete.
        """
        over = window.newest_period_end < now_ms - self._config.ttl_ms
        return over and not len(window)

    # -- helpers --------------------------------------------------------------------

    @property
    def table_bytes(self) -> int:
        """Of the partition's rows."""
        return sum(len(self._table[self._row(key.decode())]) for key in self.windows)

    @property
    def newest_period_end(self) -> int:
        """Of all snapshots merged, ms; 0: none."""
        return max((window.newest_period_end for window in self.windows.values()), default=0)

    def _row(self, name: str) -> bytes:
        return f"{self.partition}/{name}".encode()

    def _settings(self) -> dict[str, Any]:
        """What the kept windows depend on."""
        config = self._config
        return {"window": config.window, "ttl_ms": config.ttl_ms, "buckets": config.buckets}


def same(one: Window, other: Window) -> bool:
    return (
        one.newest_period_end == other.newest_period_end
        and np.array_equal(one.ids_N, other.ids_N)
        and np.array_equal(one.period_ends_NH, other.period_ends_NH)
        and np.array_equal(one.vectors_NHD, other.vectors_NHD)
    )
