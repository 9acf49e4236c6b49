"""The impression schema: declared in configuration, the same for every level.

An impression is one item shown to one user, with the click that followed or did
not. In memory a batch of B impressions is an Arrow record batch in the
*canonical* schema of :meth:`ImpressionSchema.arrow`:

    impression_id  int64            identifies the impression for good
    event_time     int64            ms since 1970-01-01 UTC
    click          int8             0 or 1
    <feature>      int64            id or categorical
                   list<int64>      the same with ``multi``
                   float32          numeric
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from settings import Section

FeatureKind = Literal["id", "categorical", "numeric"]

IMPRESSION_ID = "impression_id"
EVENT_TIME = "event_time"
CLICK = "click"
TAKEN = """
add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double
dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
get_submodule half ipu items keys load_state_dict modules mtia named_buffers named_children
named_modules named_parameters parameters pop register_buffer register_forward_hook
register_module register_parameter requires_grad_ set_extra_state set_submodule share_memory
state_dict to to_empty train training type update values xpu zero_grad
""".split()  # noqa: SIM905
"""Attributes of PyTorch's modules, which tables become by name."""
REQUIRED = {IMPRESSION_ID: pa.int64(), EVENT_TIME: pa.int64(), CLICK: pa.int8()}


class Feature(Section):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Column of the impression log."""
    kind: FeatureKind
    """`id`: grows without bound, rows are managed; `categorical`: hashed; `numeric`: a float."""
    multi: bool = False
    """A list of values, such as a user's recent items; pooled by sum."""
    table: str = Field("", pattern=r"^([a-z][a-z0-9_]*)?$")
    """Embedding table; default: one named after the feature. Two features may share one."""
    basic: bool = False
    """One of the few features that TPM reads."""
    optional: bool = False
    """The column, or its value, may be missing: an empty bag, or 0 for a numeric."""

    @model_validator(mode="after")
    def _fits(self) -> Feature:
        if self.kind == "numeric" and (self.multi or self.table):
            raise ValueError(f"numeric feature '{self.name}' takes neither multi nor table")
        if self.sparse and self.table_name in TAKEN:
            raise ValueError(
                f"a table cannot be called '{self.table_name}', PyTorch has that name for itself: "
                f"give the feature another one, such as table = '{self.table_name}_ids'"
            )
        if self.name in REQUIRED:
            raise ValueError(f"'{self.name}' is a column of every impression, not a feature")
        return self

    @property
    def sparse(self) -> bool:
        return self.kind != "numeric"

    @property
    def table_name(self) -> str:
        return self.table or self.name

    def arrow_type(self) -> pa.DataType:
        if not self.sparse:
            return pa.float32()
        return pa.list_(pa.int64()) if self.multi else pa.int64()


def _market_features() -> tuple[Feature, ...]:
    """The synthetic market's columns, which are the default schema."""
    return (
        Feature(name="user_id", kind="id", basic=True),
        Feature(name="item_id", kind="id", basic=True),
        Feature(name="creative_id", kind="id", optional=True),
        Feature(name="recent_items", kind="id", multi=True, table="item_id"),
        Feature(name="segment", kind="categorical", basic=True),
        Feature(name="category", kind="categorical", basic=True),
        Feature(name="position", kind="categorical"),
        Feature(name="hour", kind="categorical"),
        Feature(name="user_age", kind="numeric"),
        Feature(name="item_age", kind="numeric"),
    )


class ImpressionSchema(Section):
    features: tuple[Feature, ...] = Field(default_factory=_market_features)
    """The columns that models read, in the order in which they read them."""
    user: str = "user_id"
    """The id feature that names the user: GAUC groups by it, Kafka keys by it."""
    item: str = "item_id"
    """The id feature that names the item."""
    min_event_time: int = 946_684_800_000
    """Earliest event time believed, ms (2000-01-01); earlier ones are dead letters."""
    max_event_time: int = 4_102_444_800_000
    """Latest event time believed, ms (2100-01-01); later ones are dead letters."""
    max_lead_ms: int = 86_400_000
    """How far an event time may lie ahead of its Kafka record's timestamp, ms."""
    max_rows: int = Field(100_000, ge=1)
    """Most impressions believed in one record; a record of more is a dead letter."""

    @model_validator(mode="after")
    def _consistent(self) -> ImpressionSchema:
        names = [f.name for f in self.features]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"feature '{name}' is declared twice")
        for role, name in (("user", self.user), ("item", self.item)):
            feature = next((f for f in self.features if f.name == name), None)
            if feature is None or feature.kind != "id" or feature.multi or feature.optional:
                raise ValueError(f"{role} = '{name}' must name a required single id feature")
        kinds: dict[str, str] = {}
        for feature in self.sparse:
            if kinds.setdefault(feature.table_name, feature.kind) != feature.kind:
                raise ValueError(f"table '{feature.table_name}' is shared by an id and a category")
        return self

    @property
    def sparse(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if f.sparse)

    @property
    def numeric(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if not f.sparse)

    @property
    def entity_tables(self) -> tuple[str, str]:
        """The embedding tables of users and of items."""
        tables = {f.name: f.table_name for f in self.features}
        return tables[self.user], tables[self.item]

    def basics(self) -> ImpressionSchema:
        """What TPM reads: the user, the item, and the features that are ``basic``."""
        kept = (f for f in self.features if f.basic or f.name in (self.user, self.item))
        return ImpressionSchema(features=tuple(kept), **self.model_dump(exclude={"features"}))

    @cached_property
    def arrow(self) -> pa.Schema:
        """The canonical schema; a field is nullable when its feature is optional."""
        fixed = [pa.field(name, type_, nullable=False) for name, type_ in REQUIRED.items()]
        return pa.schema(
            fixed + [pa.field(f.name, f.arrow_type(), nullable=f.optional) for f in self.features]
        )

    @property
    def essentials(self) -> tuple[str, ...]:
        """The columns that say which impression it was, of whom and what, and what came of it."""
        return (*REQUIRED, self.user, self.item)

    def empty(self) -> pa.RecordBatch:
        """No impression at all, in the canonical schema."""
        return pa.RecordBatch.from_pylist([], schema=self.arrow)


@dataclass(frozen=True, order=True)
class Position:
    """Where to go on reading a partition: row ``row`` of the record at ``offset``.

    Rows are counted as they stand in the record, bad ones included.
    """

    offset: int
    row: int = 0


Positions = dict[int, Position]
"""Partition to position, for one topic."""


@dataclass(frozen=True)
class SourceRows:
    """Where each of B impressions stands in its topic."""

    partition: np.ndarray  # int32 [B]
    offset: np.ndarray  # int64 [B]
    row: np.ndarray  # int32 [B], row within the record, bad ones included

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, some: slice) -> SourceRows:
        return SourceRows(self.partition[some], self.offset[some], self.row[some])


@dataclass(frozen=True)
class Batch:
    """B impressions of one topic in the log's order, ready to be predicted and learnt."""

    rows: pa.RecordBatch  # canonical schema, or those columns of it that were asked for; B rows
    source: SourceRows
    positions: Positions  # after this batch, for every partition that is read
    watermark: int  # greatest event time read so far, ms
    appended_at: int | None = None  # oldest Kafka timestamp in it, wall clock, ms
    prepared: Any = None  # what the reader was told to make of the rows

    def __len__(self) -> int:
        return int(self.rows.num_rows)


@dataclass(frozen=True)
class Stretch:
    """Successive batches, and the rows of all of them in one piece.

    Most of what putting one together costs is a call's and not a row's.
    """

    rows: pa.RecordBatch
    batches: list[Batch]
