"""Which rows of one table belong to a row of another: by keys that are compared as values of one type, never by a hash alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import UsageError
from tables.casting import ColumnType, cast

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """The distinct keys of a table, of one column or several, each with a code from 0 on.

    `values` are those of each column; `pairs` are, for each further column, the combinations that occur, as sorted numbers.
    """

    values: tuple[pa.Array, ...]
    pairs: tuple[Numbers, ...]

    @classmethod
    def of(cls, columns: Sequence[pa.Array]) -> tuple[Keys, Numbers]:
        """The keys of some rows, and the code [rows] of each row's; -1 where a part of the key is null."""
        values = tuple(pc.unique(column.drop_null()) for column in columns)
        codes, pairs = _codes(columns[0], values[0]), []
        for column, known in zip(columns[1:], values[1:], strict=True):
            paired = _paired(codes, _codes(column, known), len(known))
            pairs.append(np.unique(paired[paired >= 0]))
            codes = _places(paired, pairs[-1])
        return cls(values, tuple(pairs)), codes

    def codes(self, columns: Sequence[pa.Array]) -> Numbers:
        """The code [rows] of each key, -1 for one that is null or not among these."""
        codes = _codes(columns[0], self.values[0])
        for column, known, pairs in zip(columns[1:], self.values[1:], self.pairs, strict=True):
            codes = _places(_paired(codes, _codes(column, known), len(known)), pairs)
        return codes

    def __len__(self) -> int:
        return len(self.pairs[-1]) if self.pairs else len(self.values[0])


def _codes(column: pa.Array, known: pa.Array) -> Numbers:
    return np.asarray(pc.index_in(column, value_set=known, skip_nulls=True).fill_null(-1), np.int64)


def _paired(first: Numbers, second: Numbers, seconds: int) -> Numbers:
    return np.where((first >= 0) & (second >= 0), first * seconds + second, -1)


def _places(paired: Numbers, pairs: Numbers) -> Numbers:
    if not len(pairs):
        return np.full(len(paired), -1)
    place = np.minimum(np.searchsorted(pairs, paired), len(pairs) - 1)
    return np.where(pairs[place] == paired, place, -1)


def kind_of(column: pa.DataType, said: str) -> ColumnType:
    """The contract's type that a key column is compared as."""
    tests: dict[ColumnType, tuple[object, ...]] = {
        "int64": (pa.types.is_integer,),
        "double": (pa.types.is_floating, pa.types.is_decimal),
        "bool": (pa.types.is_boolean,),
        "date": (pa.types.is_date,),
        "timestamp": (pa.types.is_timestamp,),
        "string": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null),
    }
    if pa.types.is_dictionary(column):
        column = column.value_type
    found = next((kind for kind, those in tests.items() if any(test(column) for test in those)), None)  # type: ignore[operator]
    if found is None:
        raise UsageError(f"{said} is no key", value=str(column), allowed="text, numbers, dates, times and booleans")
    return found


def as_key(column: pa.ChunkedArray, kind: ColumnType, formats: Sequence[str], said: str) -> pa.Array:
    """A key column of the rows, as the other table has it; what cannot be read so is null and has no partner."""
    if kind == "string" and pa.types.is_temporal(column.type):
        raise UsageError(
            f"{said} is a time here and text in the other table",
            value=str(column.type),
            next="name its type there: types: {column: timestamp}",
        )
    array = cast(column.combine_chunks(), kind, list(formats) or None)[0]
    return pc.add(array, 0.0) if kind == "double" else array  # -0.0 is 0.0


@dataclass(frozen=True)
class Partners:
    """The rows of a joined table by key: those of code c are from `starts[c]` to before `starts[c + 1]`."""

    keys: Keys
    starts: Numbers
    rows: pa.Table

    @classmethod
    def of(
        cls, table: pa.Table, keys: Sequence[str], kinds: Sequence[ColumnType], unique: bool, said: str, names: Sequence[str]
    ) -> Partners:
        """Raises UsageError, with the key by its `names`, where `unique` and it occurs twice. Rows without a key are nobody's partner."""
        columns = [as_key(table.column(name), kind, (), said) for name, kind in zip(keys, kinds, strict=True)]
        known, codes = Keys.of(columns)
        order = np.argsort(codes, kind="stable")
        order = order[np.searchsorted(codes[order], 0) :]
        starts = np.searchsorted(codes[order], np.arange(len(known) + 1))
        counts = np.diff(starts)
        if unique and (counts > 1).any():
            row = order[starts[:-1][counts > 1][0]]
            twice = {name: column[int(row)].as_py() for name, column in zip(names, columns, strict=True)}
            raise UsageError(
                f"{said}: {int((counts > 1).sum()):,} of its keys occur more than once, so rows would multiply",
                value=", ".join(f"{name}={value}" for name, value in twice.items()),
                allowed="each key once",
                next="add a column to `by`, aggregate the table, or say expect: many",
            )
        rows = table.take(pa.array(order)).drop_columns(list(keys))
        return cls(known, starts, rows.combine_chunks())

    def found(self, columns: Sequence[pa.Array]) -> tuple[Numbers, Numbers]:
        """For each row the first of its partners in `rows`, and how many there are."""
        codes = self.keys.codes(columns)
        if not len(self.keys):
            return np.zeros_like(codes), np.zeros_like(codes)
        first = self.starts[np.maximum(codes, 0)]
        return first, np.where(codes < 0, 0, self.starts[np.maximum(codes, 0) + 1] - first)
