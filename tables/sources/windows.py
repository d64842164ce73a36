"""Point-in-time features: what was known about earlier events at the moment each row had to be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tables.rows import row_hashes
from tables.sources.aggregates import Ranges
from tables.sources.partners import Keys

Minutes = NDArray[np.int64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """Events in the order of their entity (a code from 0 on) and of when they became known; `places` number both in one."""

    times: Numbers
    places: Numbers

    @classmethod
    def of(cls, entity: Numbers, known: Numbers, ties: NDArray[np.uint64] | None = None) -> tuple[Timeline, Numbers]:
        """The timeline, and the order that brings events into it; events of one moment are in the order of `ties`."""
        times = np.unique(known)
        places = entity * (len(times) + 1) + np.searchsorted(times, known)
        order = np.argsort(places, kind="stable") if ties is None else np.lexsort((ties, places))
        return cls(times, places[order]), order

    def before(self, entity: Numbers, moment: Numbers) -> Numbers:
        """For each pair of an entity and a moment: how many events stand before the first one that became known then or later."""
        return np.searchsorted(self.places, entity * (len(self.times) + 1) + np.searchsorted(self.times, moment))

    def start(self, entity: Numbers) -> Numbers:
        return np.searchsorted(self.places, entity * (len(self.times) + 1))


@dataclass(frozen=True)
class Events:
    """The events of a table as a timeline; `own` are the keys that tell which event is a row itself, and `mine` the events of each."""

    entities: Keys
    line: Timeline
    values: pa.Table
    own: Keys | None
    mine: tuple[Numbers, Numbers]

    @classmethod
    def of(cls, entity: Sequence[pa.Array], known: pa.Array, values: pa.Table, own: Sequence[pa.Array] = ()) -> Events:
        """`known` [events] are moments in microseconds. An event that never became known, or of nobody, is left out."""
        there = np.flatnonzero(np.asarray(known.is_valid()))
        entities, codes = Keys.of([column.take(pa.array(there)) for column in entity])
        there, codes = there[codes >= 0], codes[codes >= 0]
        taken = pa.array(there)
        values, moments = values.take(taken), np.asarray(known.take(taken), np.int64)
        ties = row_hashes(values, values.column_names) if values.column_names else None
        line, order = Timeline.of(codes, moments, ties)
        keys, mine = _own_events([column.take(taken).take(pa.array(order)) for column in own])
        return cls(entities, line, values.take(pa.array(order)).combine_chunks(), keys, mine)

    def known(self, entity: Sequence[pa.Array], at: pa.Array, window: int | None, lag: int, own: Sequence[pa.Array] = ()) -> Ranges:
        """For each row the events of its entity that became known in [at - lag - window, at - lag), its own left out (microseconds).

        `window` null: all that became known before. A row without an entity or a moment has none.
        """
        codes, moment = self.entities.codes(entity), np.asarray(at.fill_null(0), np.int64) - lag
        someone = (codes >= 0) & np.asarray(at.is_valid())
        codes = np.maximum(codes, 0)
        since = self.line.start(codes) if window is None else self.line.before(codes, moment - window)
        begin, end = np.where(someone, since, 0), np.where(someone, self.line.before(codes, moment), 0)
        if self.own is None:
            return Ranges(begin, end)
        starts, events = self.mine
        code = _with_nulls(self.own, own)
        row, event = _expanded(np.where(code < 0, 0, starts[code]), np.where(code < 0, 0, starts[code + 1]))
        event = events[event]
        inside = (event >= begin[row]) & (event < end[row])
        return Ranges(begin, end, row[inside], event[inside])


def _own_events(columns: Sequence[pa.Array]) -> tuple[Keys | None, tuple[Numbers, Numbers]]:
    """The keys of events, and their events: those of code c are the second array from the first's c to before its c + 1."""
    if not columns:
        return None, (np.zeros(1, np.int64), np.zeros(0, np.int64))
    keys, _ = Keys.of(columns)
    codes = _with_nulls(keys, columns)
    order = np.argsort(codes, kind="stable")
    return keys, (np.searchsorted(codes[order], np.arange(len(keys) + 2)), order)


def _with_nulls(keys: Keys, columns: Sequence[pa.Array]) -> Numbers:
    """Codes of keys, where those with a null are all one: a row that does not know its key must not see what may be itself."""
    whole = np.logical_and.reduce([np.asarray(column.is_valid()) for column in columns])
    return np.where(whole, keys.codes(columns), len(keys))


def _expanded(begin: Numbers, end: Numbers) -> tuple[Numbers, Numbers]:
    """Each row with each number from its `begin` to before its `end`."""
    length = end - begin
    row = np.repeat(np.arange(len(begin)), length)
    return row, begin[row] + np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)


def trailing(known: Minutes, value: Minutes, at: Minutes, window: int) -> tuple[Minutes, Minutes]:
    """For each moment of `at`: how many events became known in [at - window, at), and the sum of their values.

    `known` and `value` are [events], in any order; `at` is [rows].
    """
    line, order = Timeline.of(np.zeros_like(known), known)
    ranges = Ranges(*(line.before(np.zeros_like(at), at - shift) for shift in (window, 0)))
    return ranges.end - ranges.begin, ranges.sums(value[order])


def others(
    known: Minutes, value: Minutes, at: Minutes, own_known: Minutes, own_value: Minutes, window: int
) -> tuple[Minutes, NDArray[np.float64]]:
    """`trailing` without the row's own event: a row that became known early would otherwise tell itself its own outcome.

    Returns counts, and means that are NaN where there was no other event. `own_known` is -1 for a row whose event never happened.
    """
    count, total = trailing(known, value, at, window)
    own = (own_known >= at - window) & (own_known < at) & (own_known >= 0)
    count, total = count - own, total - np.where(own, own_value, 0)
    return count, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pending(due: Minutes, done: Minutes, at: Minutes, window: int) -> Minutes:
    """For each moment of `at`: how many events were due in [at - window, at) and not done before `at`; `done` is -1 for never."""
    order = np.argsort(due, kind="stable")
    due, done = due[order], done[order]
    since, until = (np.searchsorted(due, at - shift, side="left") for shift in (window, 0))
    row, event = _expanded(since, until)
    waiting = (done[event] < 0) | (done[event] >= at[row])
    return np.bincount(row[waiting], minlength=len(at))


def around(due: Minutes, at: Minutes, reach: int) -> Minutes:
    """For each moment of `at`: how many events are planned within `reach` of it; plans are known ahead."""
    ordered = np.sort(due)
    return np.searchsorted(ordered, at + reach, side="right") - np.searchsorted(ordered, at - reach, side="left")
