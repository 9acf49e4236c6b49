"""What the monitor knows of all levels: one state, which a checkpoint holds whole. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray

from monitoring.freshness import Freshness
from monitoring.level_quality import LevelQuality
from monitoring.monitor_settings import MonitorConfig
from monitoring.monitor_told import Alarm, LevelTold
from monitoring.recalled import Recalled
from monitoring.sampled_rows import Predicted
from monitoring.watermark import Watermark
from streaming.group_decoding import decode_all
from streaming.impressions import EVENT_TIME, ImpressionSchema
from streaming.predictions import SourceFilter, appended_at

Arrays = dict[str, NDArray]

DOMAINS = ("natural", "ad")


class Record(Protocol):
    """What is used of a Kafka record."""

    @property
    def value(self) -> bytes | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...
    @property
    def timestamp(self) -> int: ...  # ms


class Observer(Protocol):
    """Whoever else wants to see what the monitor reads; its state is part of the checkpoint.

    Rows of one partition come in the order of its log, each once.
    """

    @property
    def name(self) -> str:
        """Unique among the observers."""

    def predictions(self, level: str, rows: Predicted) -> None: ...

    def impressions(self, domain: str, rows: pa.RecordBatch) -> None:
        """Impressions in the canonical schema, `natural` or `ad`."""

    def advance(self, watermarks: Mapping[str, int]) -> None:
        """By level and by domain: the event time before which nothing is to come, ms."""

    def tell(self) -> None:
        """Called every second or so: let scrapes see it."""

    def alarms(self) -> Sequence[Alarm]:
        """The last ones, newest first; for people."""

    def state(self) -> Arrays:
        """All there is to know."""

    def restore(self, state: Arrays) -> None:
        """Go on from a state; raises KeyError or ValueError where that cannot be."""


class LevelLedger:
    """One level: its predictions, each once, and its published versions."""

    def __init__(self, level: str, config: MonitorConfig) -> None:
        self.level = level
        self.quality = LevelQuality(config)
        self.freshness = Freshness()
        self.seen = SourceFilter()
        self.published: tuple[int, int] | None = None
        """The last version and when it was published, wall clock, ms."""
        self.recalled: Recalled | None = None
        """What that one knows of past periods, if it says so."""

    def predictions(
        self, records: Sequence[Record], partition: int
    ) -> tuple[Predicted | None, int]:
        """Take records of one partition of the level's topic, in order.

        Returns:
            the rows not seen before, and how many records were no predictions.
        """
        batches, unreadable = [], 0
        for record in records:
            try:
                batches.append(self._rows(record))
            except ValueError:
                unreadable += 1
        fresh = [batch for batch in batches if batch.num_rows]
        if not fresh:
            return None, unreadable
        table = pa.Table.from_batches(fresh)
        rows = Predicted(
            *(
                table.column(name).to_numpy()
                for name in ("event_time", "user_id", "click", "probability", "model_version")
            )
        )
        self.quality.update(rows, partition, table.column("source_partition").to_numpy())
        return rows, unreadable

    def _rows(self, record: Record) -> pa.RecordBatch:
        since = appended_at(record.headers)
        if record.value is None:
            raise ValueError("a tombstone")
        rows = self.seen.of_record(record.value, record.headers)
        if rows.num_rows and since is not None:
            version = int(rows.column("model_version")[-1].as_py())
            self.freshness.predicted(version, since, record.timestamp)
        return rows

    def announcement(self, record: Record) -> None:
        """Take a record of the level's models; hand-downs share the topic and say nothing here.

        Raises:
            ValueError: no announcement, or one of which only the version can be used, and is.
        """
        if record.key != self.level.encode() or record.value is None:
            return
        version, recall = _announced(record.value)
        self.quality.announce(version, record.timestamp)
        self.freshness.announced(version, record.timestamp)
        if self.published is None or version > self.published[0]:
            self.published = version, record.timestamp
        if version == self.published[0]:
            self.recalled = None  # whatever was known of another version
            if recall is not None:
                self.recalled = Recalled.of(recall)

    def told(self) -> LevelTold:
        return LevelTold(
            self.level,
            self.quality.quality(),
            self.quality.predictions,
            self.seen.repeated,
            self.quality.late,
            self.freshness.learnt.copy(),
            self.freshness.published.copy(),
            self.published[0] if self.published else None,
            self.published[1] if self.published else 0,
            self.recalled,
        )

    def facts(self) -> dict[str, Any]:
        """What of the state is fit for JSON."""
        return {
            "seen": self.seen.state(),
            "repeated": self.seen.repeated,
            "freshness": self.freshness.state(),
            "published": self.published,
            "recalled": self.recalled and self.recalled.plain(),
        }

    def restore(self, facts: Mapping[str, Any], arrays: Arrays) -> None:
        self.quality.restore(arrays)
        self.seen = SourceFilter(facts["seen"])
        self.seen.repeated = facts["repeated"]
        self.freshness = Freshness.from_state(facts["freshness"])
        self.published = tuple(facts["published"]) if facts["published"] else None
        recalled = facts.get("recalled")  # an older checkpoint does not say
        self.recalled = Recalled.of(recalled) if recalled else None


def _announced(value: bytes) -> tuple[int, Any]:
    """The version that is announced, and what is said of its knowledge of past periods, if so.

    Raises:
        ValueError: no announcement.
    """
    try:
        found = json.loads(value)
        version, recall = found["version"], found.get("recall")
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an announcement: {error}") from None
    if type(version) is not int or not 0 <= version <= 2**53:
        raise ValueError("not an announcement: its version is no count of batches")
    return version, recall


class Ledger:
    """All levels, how far their topics were read, and whoever observes them."""

    def __init__(
        self,
        config: MonitorConfig,
        levels: Sequence[str],
        schema: ImpressionSchema,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.config = config
        self._schema = schema
        self.levels = {level: LevelLedger(level, config) for level in levels}
        self.observers = {observer.name: observer for observer in observers}
        self._read = {domain: Watermark() for domain in DOMAINS}
        self.positions: dict[str, dict[int, int]] = {}
        """Topic to partition to the offset that is read next."""
        self.unreadable: Counter[str] = Counter()
        """Records that were not what their topic holds, by topic."""
        self.lost: Counter[str] = Counter()
        """Records that retention removed unread, by topic."""

    def predictions(
        self, topic: str, level: str, partition: int, records: Sequence[Record], end: int
    ) -> None:
        """Take records of a partition, after which ``end`` is read next."""
        rows, unreadable = self.levels[level].predictions(records, partition)
        self.unreadable[topic] += unreadable
        if rows is not None:
            for observer in self.observers.values():
                observer.predictions(level, rows)
        self.positions.setdefault(topic, {})[partition] = end

    def announcements(
        self, topic: str, level: str, partition: int, records: Sequence[Record], end: int
    ) -> None:
        """The same for records of the level's models."""
        for record in records:
            try:
                self.levels[level].announcement(record)
            except ValueError:
                self.unreadable[topic] += 1
        self.positions.setdefault(topic, {})[partition] = end

    def impressions(
        self, topic: str, domain: str, partition: int, records: Sequence[Record], end: int
    ) -> None:
        """The same for records of impressions; only observers want them."""
        good = []
        for found in decode_all(records, self._schema):
            self.unreadable[topic] += bool(found.bad)
            if found.rows.num_rows:
                good.append(found.rows)
        if good:
            rows = pa.concat_batches(good)
            self._read[domain].note(partition, rows.column(EVENT_TIME).to_numpy())
            for observer in self.observers.values():
                observer.impressions(domain, rows)
        self.positions.setdefault(topic, {})[partition] = end

    def advance(self, behind: Mapping[str, Collection[int]]) -> None:
        """Let event time go on; ``behind``: by level and by domain the partitions of which more
        is there than was read."""
        for name, level in self.levels.items():
            level.quality.advance(behind.get(name, ()))
        for domain, time in self._read.items():
            time.advance(behind.get(domain, ()))
        watermarks = {name: level.quality.watermark for name, level in self.levels.items()}
        watermarks |= {domain: time.value for domain, time in self._read.items()}
        for observer in self.observers.values():
            observer.advance(watermarks)

    def told(self) -> list[LevelTold]:
        """Measures what has changed."""
        return [level.told() for level in self.levels.values()]

    def alarms(self) -> tuple[Alarm, ...]:
        """The observers' last ones, newest first."""
        found = [alarm for observer in self.observers.values() for alarm in observer.alarms()]
        return tuple(sorted(found, key=lambda alarm: alarm.event_time, reverse=True))

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Facts fit for JSON, and arrays."""
        facts = {
            "config": self.config.model_dump(mode="json"),
            "levels": {name: level.facts() for name, level in self.levels.items()},
            "positions": self.positions,
            "read": {domain: time.state() for domain, time in self._read.items()},
            "unreadable": self.unreadable,
            "lost": self.lost,
        }
        arrays = {
            f"level/{name}/{key}": array
            for name, level in self.levels.items()
            for key, array in level.quality.state().items()
        }
        for name, observer in self.observers.items():
            arrays |= {f"observer/{name}/{key}": a for key, a in observer.state().items()}
        return facts, arrays

    def restore(self, facts: Mapping[str, Any], arrays: Arrays) -> None:
        """Go on from :meth:`state`; an observer that it does not know begins anew.

        Raises:
            KeyError, ValueError, TypeError: it is not such a state.
        """
        for name, level in self.levels.items():
            level.restore(facts["levels"][name], _under(arrays, f"level/{name}/"))
        for name, observer in self.observers.items():
            if own := _under(arrays, f"observer/{name}/"):
                observer.restore(own)
        self._read = {d: Watermark.from_state(state) for d, state in facts["read"].items()}
        self.positions = {
            topic: {int(p): offset for p, offset in of.items()}
            for topic, of in facts["positions"].items()
        }
        self.unreadable, self.lost = Counter(facts["unreadable"]), Counter(facts["lost"])


def _under(arrays: Arrays, prefix: str) -> Arrays:
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
