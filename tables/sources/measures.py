"""The parts of a joined source that measure other rows: aggregates by key, and features of events as they were known in time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UsageError
from tables.casting import ColumnType
from tables.sources.aggregates import BY_KEY, IN_TIME, Measure, by_key, measured, readable
from tables.sources.partners import Partners, as_key
from tables.sources.parts import KEY, Indexed, Part, column_of, key_kinds, mapped, partners
from tables.sources.windows import Events

KNOWN, OWN = "_known", "_own"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, kw_only=True)
class Aggregates(Part):
    """Measures of another table by key, such as {orders: "count()", spent: "sum(amount)"}; 0 or null where the key has no row."""

    by: Mapping[str, str]
    columns: Mapping[str, str]
    word: ClassVar[str] = "aggregate"
    condenses: ClassVar[bool] = True
    known: ClassVar[Sequence[str]] = BY_KEY

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "by", mapped(self.by, f"{self.said}: by"))
        object.__setattr__(self, "columns", mapped(self.columns, f"{self.said}: columns"))
        _ = self.measures  # raises where one is none

    @property
    def measures(self) -> dict[str, Measure]:
        return {name: Measure.parse(text, self.known, f"{self.said}: {name}") for name, text in self.columns.items()}

    @property
    def pairs(self) -> Mapping[str, str]:
        return self.by

    @property
    def wanted(self) -> list[str]:
        return [*self.by.values(), *(measure.column for measure in self.measures.values() if measure.column is not None)]

    def added(self, there: list[str] | None) -> list[str] | None:
        return list(self.columns)

    def payload(self, block: pa.Table, notes: Counter[str]) -> dict[str, pa.Array]:
        """A column for each measure, by its name."""
        found = {}
        for name, measure in self.measures.items():
            if measure.column is not None:
                column = self.typed(block, measure.column, notes)
                found[name] = (
                    column if measure.column in self.types and measure.function in ("min", "max") else readable(column, measure, self.said)
                )
        return found

    @property
    def measures_there(self) -> dict[str, Measure]:
        """The measures, of the columns as `payload` calls them."""
        return {name: replace(measure, column=measure.column and name) for name, measure in self.measures.items()}

    def condensed(self, table: pa.Table, kinds: list[ColumnType]) -> pa.Table:
        return by_key(table, [f"{KEY}{i}" for i in range(len(self.by))], self.measures_there, kinds)

    def indexed(self, table: pa.Table) -> Indexed:
        return partners(table, len(self.by), True, self.said, list(self.by.values()))

    def meet(self, rows: pa.Table, there: Indexed, notes: Counter[str]) -> pa.Table:
        known: Partners = there.table
        first, count = known.found(self.keys(rows, there.kinds))
        taken = known.rows.take(pa.array(first, mask=count == 0))
        return self._appended(rows, {name: _filled(taken.column(name), measure) for name, measure in self.measures.items()})


@dataclass(frozen=True, kw_only=True)
class Features(Aggregates):
    """Measures of the events of an entity that became known, by `known_at`, in [at - lag - window, at - lag): never at `at` or later.

    Without a `source` the events are the rows of the main table, and `key` tells which of them a row is itself: that one is left out.
    """

    at: str
    known_at: str
    window: str
    lag: str = "0s"
    key: Sequence[str] = ()
    word: ClassVar[str] = "feature"
    condenses: ClassVar[bool] = False
    may_be_main: ClassVar[bool] = True
    known: ClassVar[Sequence[str]] = IN_TIME

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "key", tuple(map(str, self.key)))
        _ = self.length, self.delay
        if self.source is None and not self.key:
            raise UsageError(f"{self.said} is of the main table's own rows, and nothing says which of them a row is", next="key: [columns]")

    @property
    def length(self) -> int | None:
        """The window in microseconds; None for all that was known before."""
        return None if self.window == "all" else duration(self.window, f"{self.said}: window", "1h, 30d, or all")

    @property
    def delay(self) -> int:
        return duration(self.lag, f"{self.said}: lag", "0s, 10m, 1d")

    @property
    def wanted(self) -> list[str]:
        return [*super().wanted, self.known_at, *self._own]

    @property
    def asked(self) -> list[str]:
        return [*self.by, self.at, *self._own]

    @property
    def _own(self) -> Sequence[str]:
        return self.key if self.source is None else ()

    def payload(self, block: pa.Table, notes: Counter[str]) -> dict[str, pa.Array]:
        own = {f"{OWN}{i}": self.typed(block, name, notes) for i, name in enumerate(self._own)}
        return {KNOWN: self.times(block, self.known_at, notes), **own, **super().payload(block, notes)}

    def indexed(self, table: pa.Table) -> Indexed:
        kinds, own = key_kinds(table, KEY, self.said), key_kinds(table, OWN, self.said)
        entity = [as_key(table.column(f"{KEY}{i}"), kind, (), self.said) for i, kind in enumerate(kinds)]
        mine = [as_key(table.column(f"{OWN}{i}"), kind, (), self.said) for i, kind in enumerate(own)]
        values = table.select([name for name in table.column_names if name in self.columns])
        return Indexed(kinds, (own, Events.of(entity, table.column(KNOWN).combine_chunks(), values, mine)))

    def meet(self, rows: pa.Table, there: Indexed, notes: Counter[str]) -> pa.Table:
        own, events = there.table
        at = self.times(rows, self.at, notes)
        mine = [as_key(column_of(rows, name, self.said), kind, (), self.said) for name, kind in zip(self._own, own, strict=True)]
        ranges = events.known(self.keys(rows, there.kinds), at, self.length, self.delay, mine)
        found = {}
        for name, measure in self.measures_there.items():
            column = None if measure.column is None else events.values.column(name).combine_chunks()
            array = _filled(measured(measure, ranges, column), measure)
            found[name] = pc.if_else(at.is_valid(), array, pa.scalar(None, array.type))
        return self._appended(rows, found)


def duration(text: str, said: str, allowed: str) -> int:
    """Microseconds."""
    found = re.fullmatch(r"(\d+)\s*([smhdw])", str(text))
    if not found:
        raise UsageError(f"{said} is no length of time", value=text, allowed=allowed)
    return int(found[1]) * _SECONDS[found[2]] * 1_000_000


def _filled(column: pa.Array | pa.ChunkedArray, measure: Measure) -> pa.Array | pa.ChunkedArray:
    return column if measure.of_nothing is None else pc.fill_null(column, measure.of_nothing)
