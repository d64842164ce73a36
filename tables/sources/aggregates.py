"""Measures such as `mean(delay)`: how they are written, and what they are over ranges of a sorted table or over the rows of each key."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import UsageError, suggest
from tables.casting import ColumnType, cast
from tables.sources.exact import exact_sums
from tables.sources.partners import Keys, as_key

Numbers = NDArray[np.int64]
BY_KEY = ("count", "sum", "mean", "min", "max", "distinct")
IN_TIME = (*BY_KEY, "first", "last")
# Pairs of row and event that are looked at in one go.
CHUNK = 1 << 22


@dataclass(frozen=True)
class Measure:
    """`function` of a `column` of the events; `count` of None counts the events themselves."""

    function: str
    column: str | None

    @property
    def of_nothing(self) -> Literal[0] | None:
        """What it is where there is no event."""
        return 0 if self.function in ("count", "distinct") else None

    @classmethod
    def parse(cls, text: str, known: Sequence[str], where: str) -> Measure:
        """Read `mean(delay)`, `mean('a name with blanks')` or `count()`; `known` are the functions that may be used."""
        allowed = ", ".join("count()" if name == "count" else f"{name}(column)" for name in known)
        try:
            call = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError):
            call = None
        match call:
            case ast.Call(func=ast.Name(id=function), args=[], keywords=[]) if function == "count":
                return cls(function, None)
            case ast.Call(func=ast.Name(id=function), args=[ast.Name(id=column) | ast.Constant(value=str() as column)], keywords=[]):
                if function in known:
                    return cls(function, column)
                raise UsageError(f"{where} is no known function{suggest(function, known)}", value=text, allowed=allowed)
        raise UsageError(f"{where} is no measure", value=text, allowed=allowed)


def readable(array: pa.Array, measure: Measure, said: str) -> pa.Array:
    """A column of events as `measure` can use it; text is read as numbers where numbers are summed."""
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if measure.function in ("sum", "mean"):
        whole = pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)
        return cast(array, "int64" if whole else "double")[0]
    if measure.function in ("min", "max") and text:
        raise UsageError(
            f"{said}: {measure.function}({measure.column}) is of a text column, where 9 comes after 10",
            allowed=f"types: {{{measure.column}: double}}, or string for the order of the alphabet",
        )
    return array


@dataclass(frozen=True)
class Ranges:
    """For each row the events from `begin` to before `end` of a sorted table, but not those paired with it in `own_row`, `own_event`."""

    begin: Numbers
    end: Numbers
    own_row: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    own_event: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))

    def sums(self, of: Numbers) -> Numbers:
        """The sums [rows] of whole numbers [events]."""
        running = np.concatenate([[0], np.cumsum(of)])
        total: Numbers = running[self.end] - running[self.begin]
        np.subtract.at(total, self.own_row, of[self.own_event])
        return total

    def pairs(self, events: NDArray[np.bool_]) -> Iterator[tuple[Numbers, Numbers]]:
        """Each row with each of its `events`, as two arrays sorted by row, some rows at a time."""
        length = self.end - self.begin
        reach = np.concatenate([[0], np.cumsum(length)])
        own = np.sort(self.own_row * len(events) + self.own_event)
        start = 0
        while start < len(length):
            stop = max(start + 1, int(np.searchsorted(reach, reach[start] + CHUNK, "right")) - 1)
            some = length[start:stop]
            row = np.repeat(np.arange(start, stop), some)
            event = np.arange(len(row)) - np.repeat(reach[start:stop] - reach[start], some) + self.begin[row]
            kept = events[event]
            if len(own):
                kept &= ~np.isin(row * len(events) + event, own)
            yield row[kept], event[kept]
            start = stop

    def without_own(self, event: Numbers, onward: Numbers) -> Numbers:
        """For each row its `event` (-1: none), or the first after it on the way `onward` that is not the row's own."""
        own = np.sort(self.own_row * len(onward) + self.own_event)
        while len(own):
            mine = np.flatnonzero((event >= 0) & np.isin(np.arange(len(event)) * len(onward) + event, own))
            if not len(mine):
                break
            event[mine] = onward[event[mine]]
        return event


def measured(measure: Measure, ranges: Ranges, column: pa.Array | None) -> pa.Array:
    """The measure [rows] of each range; `column` [events] is null for `count()`. Nulls and NaN are not measured."""
    if column is None:
        return pa.array(ranges.end - ranges.begin - np.bincount(ranges.own_row, minlength=len(ranges.begin)))
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    known = np.asarray(column.is_valid())
    counts = ranges.sums(known.astype(np.int64))
    match measure.function:
        case "count":
            return pa.array(counts)
        case "sum" | "mean":
            total = _total(measure, ranges, column, int(counts.max(initial=0)))
            found = total if measure.function == "sum" else total / np.maximum(counts, 1)
            return pa.array(found, mask=counts == 0)
        case "first" | "last":
            return column.take(pa.array(event := _outermost(measure, ranges, known), mask=event < 0))
    values, codes = _ranked(column)
    if measure.function == "distinct":
        return pa.array(_distinct(ranges, known, codes, len(values)))
    best = np.full(len(counts), -1)
    extreme = np.minimum if measure.function == "min" else np.maximum
    for row, event in ranges.pairs(known):
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        if len(starts):
            best[row[starts]] = extreme.reduceat(codes[event], starts)
    return values.take(pa.array(best, mask=best < 0))


def _total(measure: Measure, ranges: Ranges, column: pa.Array, most: int) -> NDArray[np.int64] | NDArray[np.float64]:
    if pa.types.is_floating(column.type):
        return exact_sums(np.asarray(column.fill_null(0.0)), ranges.sums)
    values = np.asarray(column.fill_null(0))
    largest, total = max(abs(int(values.min())), abs(int(values.max()))) if len(values) else 0, ranges.sums(values)
    # Sums that fit are right even where running sums wrap around; one that does not is off by at least 2 ** 64.
    if largest * most >= 2**63 and (np.abs(exact_sums(values.astype(np.float64), ranges.sums) - total) > 2.0**62).any():
        raise UsageError(
            f"{measure.function}({measure.column}) is larger than a whole number of 64 bits",
            next=f"types: {{{measure.column}: double}}",
        )
    return total


def _outermost(measure: Measure, ranges: Ranges, known: NDArray[np.bool_]) -> Numbers:
    """The first or last event [rows] whose value is known, -1 where there is none."""
    if not len(known):
        return np.full(len(ranges.begin), -1)
    places = np.arange(len(known))
    empty = ranges.begin >= ranges.end
    if measure.function == "last":
        before = np.maximum.accumulate(np.where(known, places, -1))
        event = ranges.without_own(np.where(empty, -1, before[ranges.end - 1]), np.concatenate([[-1], before[:-1]]))
        return np.where(event >= ranges.begin, event, -1)
    after = np.minimum.accumulate(np.where(known, places, len(known))[::-1])[::-1]
    after = np.where(after == len(known), -1, after)
    event = ranges.without_own(np.where(empty, -1, after[np.minimum(ranges.begin, len(known) - 1)]), np.concatenate([after[1:], [-1]]))
    return np.where(event < ranges.end, event, -1)


def _ranked(column: pa.Array) -> tuple[pa.Array, Numbers]:
    """The distinct values in order, and the rank among them of each value (0 for null)."""
    values = pc.unique(column.drop_null())
    values = values.take(pc.array_sort_indices(values))
    return values, np.asarray(pc.index_in(column, value_set=values).fill_null(0), np.int64)


def _distinct(ranges: Ranges, known: NDArray[np.bool_], codes: Numbers, values: int) -> Numbers:
    found = np.zeros(len(ranges.begin), np.int64)
    for row, event in ranges.pairs(known):
        pairs = np.sort(row * values + codes[event])
        found += np.bincount(pairs[np.diff(pairs, prepend=-1) > 0] // max(values, 1), minlength=len(found))
    return found


def by_key(events: pa.Table, keys: Sequence[str], measures: Mapping[str, Measure], kinds: Sequence[ColumnType]) -> pa.Table:
    """One row for each key: the `keys` columns, as `kinds`, and the measures. Events without a key are in none."""
    columns = [as_key(events.column(name), kind, (), name) for name, kind in zip(keys, kinds, strict=True)]
    known, codes = Keys.of(columns)
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]
    bounds = np.searchsorted(codes[order], np.arange(len(known) + 1))
    ranges = Ranges(bounds[:-1], bounds[1:])
    taken = pa.array(order)
    found = {name: column.take(pa.array(order[bounds[:-1]])) for name, column in zip(keys, columns, strict=True)}
    for name, measure in measures.items():
        column = None if measure.column is None else events.column(measure.column).combine_chunks().take(taken)
        found[name] = measured(measure, ranges, column)
    return pa.table(found)
