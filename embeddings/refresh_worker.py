"""The refresher's streams: snapshots in, historical embeddings out.

    tpm.snapshots    p ──▶ agent ──▶ table, partition p ──▶ embeddings.historical  p
    ...-refresh      p ──▶ agent ──▶ expires there, publishes what is still owed

All topics have the same partitions, and Faust gives a worker the same ones of each. A
table may only be changed from inside a stream: so the timer sends messages to partitions,
and whoever has them refreshes.

Faust would pass over a message whose handling failed. Here a failure ends the worker, and
the next one goes on at the table's position.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from faust.types import TP

from embeddings.history_records import decode_snapshot
from embeddings.history_settings import HistoryConfig
from embeddings.refresh_faust import App
from embeddings.refresh_gap import read_between
from embeddings.refresh_observer import Observer, Telemetry
from embeddings.refresh_shard import Outcome, Published, Shard
from errors import UserError
from streaming.codec import Bad
from streaming.connection import KafkaConfig
from streaming.dead_letters import dead_letter
from streaming.topics import TopicsConfig
from streaming.validation import Reason

log = logging.getLogger(__name__)

TABLE = "windows"
_HEADERS_BYTES = 1_000
"""Room that a record's key, headers and framing take beside its value."""


class Worker:
    """Agents, table and timer over ``app``; what went wrong is in :attr:`failure`."""

    def __init__(
        self,
        app: App,
        kafka: KafkaConfig,
        topics: TopicsConfig,
        config: HistoryConfig,
        partitions: int,
        telemetry: Telemetry,
        max_message_bytes: int,
    ) -> None:
        self.failure: BaseException | None = None
        self.alive_at = time.monotonic()
        """When something was last done."""
        self.shards: dict[int, Shard] = {}
        """By partition, those that are ours now."""
        self.app, self._kafka, self._topics, self._config = app, kafka, topics, config
        self._telemetry, self._observer = telemetry, Observer(telemetry)
        self._max_bytes = max_message_bytes - _HEADERS_BYTES
        self._newest = 0  # period end, ms, that any worker has seen
        self._ends: dict[int, int] = {}  # where our own last record left the published topic
        self._behind: dict[int, int] = {}  # where a partition was a round ago
        self._one_at_a_time = asyncio.Lock()
        self._table = app.Table(TABLE, partitions=partitions, key_type=bytes, value_type=bytes)
        self._snapshots = self._topic(topics.snapshots, allow_empty=True)
        self._refreshes = self._topic(refresh_topic(app.conf.id))
        self._historical = self._topic(topics.historical)
        self._dead_letters = self._topic(topics.dead_letter)
        self._partitions = partitions
        app.positions = self._positions
        app.agent(self._snapshots, name="snapshots")(self._follow_snapshots)
        app.agent(self._refreshes, name="refreshes")(self._follow_refreshes)
        app.timer(config.refresh_seconds, name="refresh")(self._ask_for_refresh)
        app.on_partitions_revoked.connect(self._revoked)
        app.on_rebalance_complete.connect(self._rebalanced)

    def _topic(self, name: str, **more: Any) -> Any:
        # A schema of raw bytes: a Kafka record's key and value as they are.
        made: Any = self.app.topic(
            name,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            **more,
        )
        return made

    # -- partitions come and go -------------------------------------------------------

    async def _revoked(self, *_: Any, **__: Any) -> None:
        """Nothing is under way any more, and what was sent has arrived."""
        self.shards.clear()

    async def _positions(self, partitions: Iterable[int]) -> Mapping[int, int]:
        """The tables are recovered: where to read on, which may be the very beginning."""
        places = {p: TP(self._topics.snapshots, p) for p in partitions}
        self.shards = {p: shard for p, shard in self.shards.items() if p in places}
        if new := [places[p] for p in places if p not in self.shards]:
            firsts = await self.app.consumer.earliest_offsets(*new)
            ends = await self.app.consumer.highwaters(*new)
            for place in new:
                self._take_over(place.partition, firsts[place] or 0, ends[place] or 0)
        return {p: shard.next_offset for p, shard in self.shards.items()}

    def _take_over(self, partition: int, first: int, end: int) -> None:
        shard = Shard(partition, self._table, self._config, self._max_bytes)
        trouble = shard.recover(first, end)
        where = f"partition {partition} of {self._topics.snapshots}"
        if trouble and end > first:
            log.warning(
                "%s: its table %s; making it anew from the snapshots at offsets %d to %d%s",
                where,
                trouble,
                first,
                end - 1,
                f" (those before {first} are deleted)" if first else "",
            )
            self._telemetry.rebuilt()
        else:
            log.info("%s: going on at offset %d of %d", where, shard.next_offset, end)
        self.shards[partition] = shard
        self._newest = max(self._newest, shard.newest_period_end)
        self._ends.pop(partition, None)
        self._behind.pop(partition, None)

    async def _rebalanced(self, *_: Any, **__: Any) -> None:
        await self._ask_for_refresh()

    # -- streams ----------------------------------------------------------------------

    async def _follow_snapshots(self, stream: Any) -> None:
        async for event in stream.events():
            await self._guarded(self._on_snapshot, event.message)

    async def _follow_refreshes(self, stream: Any) -> None:
        async for event in stream.events():
            await self._guarded(self._on_refresh, event.message)

    async def _guarded(self, handle: Any, message: Any) -> None:
        async with self._one_at_a_time:
            shard = self.shards.get(message.partition)
            if shard is None or self.failure is not None:
                return  # not ours any more, or to be done by the next worker
            try:
                await handle(shard, message)
            except UserError as error:
                self.failure = error
                return
            except Exception as error:
                log.exception("what stands at %s, %d", message.tp, message.offset)
                self.failure = error
                return
            self.alive_at = time.monotonic()
            self._observer.look(self.shards, self._newest)

    async def _on_snapshot(self, shard: Shard, message: Any) -> None:
        if message.offset < shard.next_offset:
            return  # delivered again
        if message.offset > shard.next_offset:
            await self._fill(shard, message.offset)
        await self._merge(shard, message)
        await self._publish(shard)

    async def _fill(self, shard: Shard, end: int) -> None:
        """Read what the stream passed over: around a rebalance Faust may lose its place."""
        first, merged = shard.next_offset, 0
        missing = read_between(self._kafka, self._topics.snapshots, shard.partition, first, end)
        while (record := await asyncio.to_thread(next, missing, None)) is not None:
            await self._merge(shard, record)
            merged += 1
        log.warning(
            "partition %d of %s: offsets %d to %d were not delivered; the log holds %d of them",
            shard.partition,
            self._topics.snapshots,
            first,
            end - 1,
            merged,
        )
        if shard.next_offset < end:
            shard.skip(end - 1)  # there is nothing more

    async def _merge(self, shard: Shard, message: Any) -> None:
        try:
            snapshot = decode_snapshot(message.value)
            now_ms = max(self._newest, snapshot.period_end)
            outcome = shard.take(message.offset, snapshot, now_ms)
            self._newest = now_ms
        except ValueError as error:
            outcome = Outcome.UNUSABLE
            await self._bury(message, str(error))
            shard.skip(message.offset)
        self._telemetry.snapshot(outcome)

    async def _on_refresh(self, shard: Shard, message: Any) -> None:
        started = time.perf_counter()
        self._newest = max(self._newest, _period_end(message.value))
        if shard.next_offset < shard.publish_from:
            # Behind, and no further than a round ago: nothing comes by itself.
            if self._behind.get(shard.partition) == shard.next_offset:
                await self._fill(shard, shard.publish_from)
            self._behind[shard.partition] = shard.next_offset
        shard.expire(self._newest)
        await self._publish(shard)
        self._telemetry.refreshed(time.perf_counter() - started)

    async def _ask_for_refresh(self) -> None:
        """Of everybody: whoever has a partition learns the newest period end of all."""
        await self._look_for_strangers()
        value = str(self._newest).encode()
        for partition in range(self._partitions):
            await self._refreshes.send(key=b"newest", value=value, partition=partition)

    # -- writing ----------------------------------------------------------------------

    async def _publish(self, shard: Shard) -> None:
        """Send what is due and wait until Kafka has it."""
        sent: list[tuple[Published, Any]] = []
        for record in shard.due(self._newest):
            sent.append((record, await self._send(shard.partition, record)))
        expected = self._ends.get(shard.partition)
        for record, future in sent:
            offset = (await future).offset
            shard.published(record.key)
            if expected is not None and offset != expected:
                self._say_again(shard)
            self._ends[shard.partition] = expected = offset + 1
        if sent:
            tombstones = sum(record.value is None for record, _ in sent)
            self._telemetry.published(len(sent) - tombstones, tombstones)

    async def _send(self, partition: int, record: Published) -> Any:
        return await self._historical.send(
            key=record.key, value=record.value, headers=record.headers, partition=partition
        )

    async def _look_for_strangers(self) -> None:
        """Find partitions that do not end where our own last record left them.

        A worker that hung while its partitions went to others may wake up and write what
        is out of date: the last word must be the owner's.
        """
        known = {p: end for p, end in self._ends.items() if p in self.shards}
        places = {TP(self._topics.historical, p): p for p in known}
        ends = await self.app.consumer.highwaters(*places) if places else {}
        if self._one_at_a_time.locked():
            return  # something of our own may be under way: the next round will tell
        for place, partition in places.items():
            shard = self.shards.get(partition)
            if shard is None:
                continue  # it went to another worker while we asked
            if self._ends.get(partition) == known[partition] != ends[place]:
                self._say_again(shard)
                self._ends[partition] = ends[place] or 0

    def _say_again(self, shard: Shard) -> None:
        log.warning(
            "partition %d of %s: somebody else wrote to it; publishing all of it again",
            shard.partition,
            self._topics.historical,
        )
        shard.publish_again()

    async def _bury(self, message: Any, why: str) -> None:
        value = message.value or b""
        reason = Reason.UNDECODABLE_ARROW if value else Reason.EMPTY_RECORD
        bad = Bad(reason, why, np.empty(0, np.int32), 1, value)
        letter = dead_letter(
            bad,
            message.topic,
            message.partition,
            message.offset,
            message.key,
            _header_pairs(message.headers),
        )
        for part, headers in letter.records():
            await (await self._dead_letters.send(key=message.key, value=part, headers=headers))


def refresh_topic(app_id: str) -> str:
    """The topic by which the timer reaches every partition."""
    return f"{app_id}-refresh"


def changelog_topic(app_id: str) -> str:
    """The topic that Faust keeps the table's changes in."""
    return f"{app_id}-{TABLE}-changelog"


def _period_end(value: bytes) -> int:
    return int(value) if value.isdigit() else 0


def _header_pairs(headers: Any) -> list[tuple[str, bytes]]:
    """Faust hands them out as a mapping or as pairs."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    return [(str(name), content) for name, content in pairs]
