"""What a joined source is told of a table that it brings in, and a plain join; `measures` has aggregates and features."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UsageError, some, suggest
from tables.casting import ARROW, ColumnType, cast
from tables.sources.formats import ORIGIN_FILE, ORIGIN_ROW, UNREADABLE
from tables.sources.partners import Partners, as_key, kind_of

ORIGIN = (ORIGIN_FILE, ORIGIN_ROW)
# The keys of a joined table, numbered from 0, while it is on its way.
KEY = "_key"


class Indexed(NamedTuple):
    """A table made ready to be met by rows; its keys are compared as `kinds`."""

    kinds: list[ColumnType]
    table: Any


@dataclass(frozen=True, kw_only=True)
class Part:
    """One more table. `types` are contract types of its columns, `formats` strptime patterns of its times and of the rows' keys."""

    source: Any = None
    name: str = ""
    types: Mapping[str, str] = field(default_factory=dict)
    formats: Sequence[str] = ()
    word: ClassVar[str] = "join"
    condenses: ClassVar[bool] = False
    may_be_main: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.source is None and not self.may_be_main:
            raise UsageError(f"{self.said} has no source", allowed="source: {_target_: ..., ...}")
        for column, kind in self.types.items():
            if kind not in ARROW:
                raise UsageError(f"{self.said}: types.{column} is unknown{suggest(str(kind), ARROW)}", value=kind, allowed=", ".join(ARROW))
        object.__setattr__(self, "types", dict(self.types))
        object.__setattr__(self, "formats", tuple(map(str, self.formats)))

    @property
    def said(self) -> str:
        return f"{self.word} {self.name!r}" if self.name else f"a {self.word} of the source"

    @property
    def bare(self) -> Self:
        """What is sent to workers."""
        return replace(self, source=None if self.source is None else True)

    @property
    def pairs(self) -> Mapping[str, str]:
        """Key columns of the rows -> those of this table."""
        raise NotImplementedError

    @property
    def wanted(self) -> list[str]:
        """The columns of this table that are surely asked for."""
        raise NotImplementedError

    @property
    def asked(self) -> list[str]:
        """The columns that the rows must have."""
        return list(self.pairs)

    @property
    def plain(self) -> dict[str, Any]:
        """All that the result hangs on, but for the source's rows, as JSON values."""
        return {"word": self.word, **{name: _plain(value) for name, value in vars(self).items() if name != "source"}}

    def added(self, there: list[str] | None) -> list[str] | None:
        """The names of the columns that the rows get; None where only the table can tell."""
        raise NotImplementedError

    def taken(self, block: pa.Table, notes: Counter[str]) -> pa.Table:
        """What is needed of a block of this table, its keys in front as `_key0`, `_key1` ..."""
        block = _readable_rows(block)
        keys = {f"{KEY}{i}": self.typed(block, name, notes) for i, name in enumerate(self.pairs.values())}
        return pa.table({**keys, **self.payload(block, notes)})

    def payload(self, block: pa.Table, notes: Counter[str]) -> dict[str, pa.Array]:
        raise NotImplementedError

    def condensed(self, table: pa.Table, kinds: list[ColumnType]) -> pa.Table:
        """One row for each key in place of all rows with these keys, if this part `condenses`."""
        raise NotImplementedError

    def indexed(self, table: pa.Table) -> Indexed:
        raise NotImplementedError

    def meet(self, rows: pa.Table, there: Indexed, notes: Counter[str]) -> pa.Table:
        """The rows with what this table adds."""
        raise NotImplementedError

    def typed(self, block: pa.Table, name: str, notes: Counter[str]) -> pa.Array:
        array = column_of(block, name, self.said).combine_chunks()
        if name not in self.types:
            return array
        return self._noted(array, name, self.types[name], notes)  # type: ignore[arg-type]

    def times(self, table: pa.Table, name: str, notes: Counter[str]) -> pa.Array:
        """A column as moments, int64 in microseconds; null where it cannot be read."""
        array = column_of(table, name, self.said).combine_chunks()
        readable_types = (pa.types.is_temporal, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
        if not any(test(array.type) for test in readable_types):
            raise UsageError(f"{self.said}: {name} is no time", value=str(array.type), allowed="a date, a time, or text that says one")
        return self._noted(array, name, "timestamp", notes).cast(pa.int64())

    def keys(self, rows: pa.Table, kinds: Sequence[ColumnType]) -> list[pa.Array]:
        """The rows' keys as this table has them."""
        named = zip(self.pairs, kinds, strict=True)
        return [as_key(column_of(rows, name, self.said), kind, self.formats, f"{self.said}: {name}") for name, kind in named]

    def _noted(self, array: pa.Array, name: str, kind: ColumnType, notes: Counter[str]) -> pa.Array:
        found, unreadable = cast(array, kind, list(self.formats) or None)
        notes[f"{self.name}: {name} is no {kind}"] += pc.sum(unreadable).as_py() or 0
        return found

    def _appended(self, rows: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
        for name, column in columns.items():
            if name in rows.column_names:
                raise clash(self.said, name)
            rows = rows.append_column(name, column)
        return rows


@dataclass(frozen=True, kw_only=True)
class Join(Part):
    """Columns of another table by key. `by`: {here: there}; `columns`: {there: here} or a list, all by default.

    `how`: left keeps rows without a partner, inner drops them. `expect`: one refuses a table where a key occurs twice, many repeats the
    row for each partner.
    """

    by: Mapping[str, str]
    columns: Any = None
    how: Literal["left", "inner"] = "left"
    expect: Literal["one", "many"] = "one"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("how", ("left", "inner")), ("expect", ("one", "many"))):
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"{self.said}: {name} is unknown{suggest(str(value), known)}", value=value, allowed=" or ".join(known))
        if not isinstance(self.columns, Mapping | None):
            object.__setattr__(self, "columns", {str(name): str(name) for name in self.columns})
        here = list((self.columns or {}).values())
        if double := next((name for name in here if here.count(name) > 1), None):
            raise clash(self.said, double)
        object.__setattr__(self, "by", mapped(self.by, f"{self.said}: by"))

    @property
    def pairs(self) -> Mapping[str, str]:
        return self.by

    @property
    def wanted(self) -> list[str]:
        return [*self.by.values(), *(self.columns or ())]

    def added(self, there: list[str] | None) -> list[str] | None:
        return None if there is None and self.columns is None else list(self._renamed(there or []).values())

    def _renamed(self, there: Sequence[str]) -> Mapping[str, str]:
        if self.columns is not None:
            return dict(self.columns)
        return {name: name for name in there if name not in (*self.by.values(), *ORIGIN, UNREADABLE)}

    def payload(self, block: pa.Table, notes: Counter[str]) -> dict[str, pa.Array]:
        return {here: self.typed(block, there, notes) for there, here in self._renamed(block.column_names).items()}

    def indexed(self, table: pa.Table) -> Indexed:
        return partners(table, len(self.by), self.expect == "one", self.said, list(self.by.values()))

    def meet(self, rows: pa.Table, there: Indexed, notes: Counter[str]) -> pa.Table:
        known: Partners = there.table
        first, count = known.found(self.keys(rows, there.kinds))
        lonely = (count == 0) & _is_readable(rows)
        notes[f"{self.name}: no partner" + (", dropped" if self.how == "inner" else "")] += int(lonely.sum())
        times = np.where(lonely & (self.how == "inner"), 0, np.maximum(count, 1))
        row = np.repeat(np.arange(rows.num_rows), times)
        partner = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
        taken = known.rows.take(pa.array(partner, mask=count[row] == 0))
        kept = rows if (times == 1).all() else rows.take(pa.array(row))
        return self._appended(kept, dict(zip(taken.column_names, taken.columns, strict=True)))


def clash(said: str, name: str) -> UsageError:
    return UsageError(f"{said} brings a column that is there already", value=name, next=f"name it anew: columns: {{{name}: other_name}}")


def key_kinds(table: pa.Table, prefix: str, said: str) -> list[ColumnType]:
    """The contract types of the columns `_key0`, `_key1` ... of a table."""
    names = [name for name in table.column_names if re.fullmatch(rf"{prefix}\d+", name)]
    return [kind_of(table.schema.field(name).type, said) for name in sorted(names, key=lambda name: int(name.removeprefix(prefix)))]


def partners(table: pa.Table, keys: int, unique: bool, said: str, names: list[str]) -> Indexed:
    kinds = key_kinds(table, KEY, said)
    return Indexed(kinds, Partners.of(table, [f"{KEY}{i}" for i in range(keys)], kinds, unique, said, names))


def mapped(given: Any, said: str) -> dict[str, str]:
    if not isinstance(given, Mapping) or not given:
        raise UsageError(f"{said} is no mapping", value=given, allowed="{here: there}")
    return {str(key): str(value) for key, value in given.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple | list) else value


def column_of(table: pa.Table, name: str, said: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise missing(said, name, table.column_names)
    return table.column(name)


def missing(said: str, name: str, known: Sequence[str]) -> UsageError:
    return UsageError(f"{said} asks for a column that is not there{suggest(name, known)}", value=name, allowed=some(known))


def _is_readable(rows: pa.Table) -> Any:
    """bool [rows]: rows that could not be read pass through to the quarantine."""
    return np.asarray(rows.column(UNREADABLE).is_null()) if UNREADABLE in rows.column_names else np.ones(rows.num_rows, bool)


def _readable_rows(block: pa.Table) -> pa.Table:
    return block.filter(pc.is_null(block.column(UNREADABLE))) if UNREADABLE in block.column_names else block
