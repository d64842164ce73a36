"""A batch of raw rows under its contract: typed, and sorted into good and bad in one pass, each bad row with the first rule it broke."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UsageError, some, suggest
from tables.casting import ARROW, cast, one_array, true_or_false
from tables.contract import Column, Contract, Rule
from tables.promises import Severity
from tables.references import without_a_match
from tables.rows import Hashes
from tables.rules import evaluate, names_in
from tables.sources.formats import ORIGIN_FILE, ORIGIN_ROW, UNREADABLE

# A column with fewer distinct values than this among its first rows is matched against a pattern value by value, not row by row.
_FEW, _LOOKED_AT = 256, 1024


@dataclass(frozen=True)
class Checked:
    """A batch after the contract: all rows as typed columns, and for each the first `rule` it broke and why (null: none).

    `origin` holds the columns `_file` and `_row` that the raw rows had, if any; good rows lose them.
    """

    typed: pa.Table
    rule: pa.Array
    reason: pa.Array
    warned: dict[str, int]
    origin: pa.Table

    @cached_property
    def is_good(self) -> pa.Array:
        return pc.is_null(self.rule)

    @cached_property
    def good(self) -> pa.Table:
        return self.typed if self.rule.null_count == len(self.rule) else self.typed.filter(self.is_good)

    @cached_property
    def bad(self) -> pa.Table:
        """The rows that broke a rule as typed columns, with where they came from, `_rule` and `_reason`."""
        table = self.typed
        for name in self.origin.column_names:
            table = table.append_column(name, self.origin.column(name))
        return self.marked(table)

    def marked(self, table: pa.Table) -> pa.Table:
        """The bad rows as they stand in `table`, which has the same rows, with `_rule` and `_reason`."""
        return table.append_column("_rule", self.rule).append_column("_reason", self.reason).filter(pc.invert(self.is_good))


def check(contract: Contract, table: pa.Table, indexes: Mapping[str, Hashes] | None = None) -> Checked:
    """Cast `table` to the contract's types and sort its rows into good and bad.

    `indexes` are those of the tables that the contract refers to, by the reference's name (`references.index_of`); without them references
    are not asked. Raises UsageError when a column is missing, cannot hold its type at all, or a rule of severity `stop` is broken.
    """
    return _check(contract, table, list(contract.columns), contract.rules, indexes or {})


def check_features(contract: Contract, table: pa.Table) -> Checked:
    """The same for rows to be answered: they bring the features alone, and no row stops the others.

    A nullable feature that the table lacks is null throughout. Rules over other columns than features cannot be asked.
    """
    names = contract.features
    for name in names:
        if name not in table.column_names and contract.columns[name].nullable:
            table = table.append_column(name, pa.nulls(table.num_rows, ARROW[contract.columns[name].type]))
    return _check(contract, table, names, feature_rules(contract), {}, stop="quarantine")


def feature_rules(contract: Contract) -> list[Rule]:
    """The rules that can be asked of rows to be answered."""
    return [rule for rule in contract.rules if names_in(rule.check) <= set(contract.features)]


def _check(
    contract: Contract, table: pa.Table, names: list[str], rules: list[Rule], indexes: Mapping[str, Hashes], stop: Severity = "stop"
) -> Checked:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        close = suggest(missing[0], set(table.column_names) - set(names))
        raise UsageError(
            f"the table lacks columns{close}" if len(missing) > 1 else f"the table has no such column{close}",
            value=", ".join(missing[:5]),
            allowed=some(table.column_names),
            next="correct the source, or remove the column from the contract",
        )
    sorting = _Sorting(table, stop)
    arrays: list[pa.Array] = []
    for name in names:
        column = contract.columns[name]
        array, unreadable = cast(one_array(table.column(name)), column.type, column.formats)
        arrays.append(array)
        for breach in _breaches(name, column, array, unreadable):
            sorting.note(breach)
    typed = pa.table(dict(zip(names, arrays, strict=True)), schema=contract.schema(names))
    for breach in _breaches_of_rows(contract, typed, rules, indexes):
        sorting.note(breach)
    origin = table.select([name for name in (ORIGIN_FILE, ORIGIN_ROW) if name in table.column_names])
    return Checked(typed, *sorting.verdicts(), sorting.warned, origin)


class _Breach(NamedTuple):
    """`mask` (bool [rows], no nulls) says which rows break the rule `name`."""

    name: str
    severity: Severity
    mask: pa.Array
    said: str


class _Sorting:
    """The first rule that each row broke, and how many rows broke those rules that only warn."""

    def __init__(self, table: pa.Table, stop: Severity) -> None:
        self.stop = stop
        self.warned: dict[str, int] = {}
        self._first = np.zeros(table.num_rows, np.int32)  # 0, or the number of a breach
        self._broken: list[tuple[str, str | None]] = []
        self._unreadable = one_array(table.column(UNREADABLE)) if UNREADABLE in table.column_names else None
        if self._unreadable is not None:
            self._take("unreadable", None, pc.is_valid(self._unreadable))

    def note(self, breach: _Breach) -> None:
        count = breach.mask.true_count
        if not count:
            return
        severity = self.stop if breach.severity == "stop" else breach.severity
        if severity == "stop":
            raise UsageError(
                f"contract rule {breach.name!r} is broken by {count} rows: {breach.said}",
                next="correct the data, or the rule in the contract",
            )
        if severity == "warn":
            self.warned[breach.name] = self.warned.get(breach.name, 0) + count
            return
        self._take(breach.name, breach.said, breach.mask)

    def _take(self, name: str, said: str | None, mask: pa.Array) -> None:
        # Few rows are bad, and only those are touched: a pass over all rows for each broken rule would cost more than the checks.
        rows = pc.indices_nonzero(mask).to_numpy()
        self._broken.append((name, said))
        self._first[rows[self._first[rows] == 0]] = len(self._broken)

    def verdicts(self) -> tuple[pa.Array, pa.Array]:
        """For each row the first rule that it broke and the reason, null where it broke none."""
        if not self._first.any():
            return (pa.nulls(len(self._first), pa.string()),) * 2
        which = pa.array(self._first - 1, mask=self._first == 0)
        rule, reason = (pa.array(texts, pa.string()).take(which) for texts in zip(*self._broken, strict=True))
        return rule, reason if self._unreadable is None else pc.coalesce(self._unreadable, reason)


def _breaches(name: str, column: Column, array: pa.Array, unreadable: pa.Array) -> Iterator[_Breach]:
    """What is wrong with one column's values, cast to `array`. Most columns have nothing wrong, so no mask is made before it is needed."""
    # A value that cannot be read is never only a warning: it would silently become a null.
    yield _Breach(f"{name}.type", "quarantine", unreadable, f"{name} is not a {column.type}")
    if not column.nullable and array.null_count > unreadable.true_count:
        said = "the label is missing" if column.role == "label" else f"{name} is null"
        yield _Breach(f"{name}.nullable", "quarantine", pc.and_(pc.is_null(array), pc.invert(unreadable)), said)
    if column.min is not None or column.max is not None:
        yield from _out_of_bounds(name, column, array)
    if column.allowed is not None:
        known = pc.is_in(pc.cast(array, pa.string()), value_set=pa.array(column.allowed, pa.string()))
        if known.true_count + array.null_count < len(array):
            yield _Breach(
                f"{name}.allowed", column.severity, pc.and_(pc.invert(known), pc.is_valid(array)), f"{name} is not in the allowed set"
            )
    if column.pattern is not None:
        matched = matches(column.pattern, array)
        if matched.false_count:
            yield _Breach(f"{name}.pattern", column.severity, true_or_false(pc.invert(matched)), f"{name} does not match {column.pattern}")


def _out_of_bounds(name: str, column: Column, array: pa.Array) -> Iterator[_Breach]:
    lowest, highest = (each.as_py() for each in pc.min_max(array).values())
    if lowest is None:
        return
    if column.min is not None and lowest < column.min:
        bound = column.min if column.type == "double" else math.ceil(column.min)
        yield _Breach(f"{name}.min", column.severity, true_or_false(pc.less(array, bound)), f"{name} is below {column.min:g}")
    if column.max is not None and highest > column.max:
        bound = column.max if column.type == "double" else math.floor(column.max)
        yield _Breach(f"{name}.max", column.severity, true_or_false(pc.greater(array, bound)), f"{name} is above {column.max:g}")


def matches(pattern: str, texts: pa.Array) -> pa.Array:
    """bool [rows]: whether the whole text matches the RE2 pattern; null where there is no text."""
    whole = rf"\A(?:{pattern})\z"
    if pc.count_distinct(texts.slice(0, _LOOKED_AT)).as_py() < min(_FEW, len(texts)):
        coded = texts.dictionary_encode()
        return pc.match_substring_regex(coded.dictionary, whole).take(coded.indices)
    return pc.match_substring_regex(texts, whole)


def _breaches_of_rows(contract: Contract, typed: pa.Table, rules: list[Rule], indexes: Mapping[str, Hashes]) -> Iterator[_Breach]:
    for rule in rules:
        kept = evaluate(rule.check, typed)
        if kept.false_count:
            yield _Breach(rule.name, rule.severity, true_or_false(pc.invert(kept)), f"not {rule.check}")
    for reference in contract.references if indexes else ():
        lost = without_a_match(reference, typed, indexes[reference.name])
        columns, to = ", ".join(reference.columns), ", ".join(reference.to)
        yield _Breach(reference.name, reference.severity, lost, f"{columns} is not among {to} of {reference.table}")
