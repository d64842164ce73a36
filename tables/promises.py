"""What a contract promises about the whole table, beyond its single rows: how many rows, how fresh, how distributed, what they refer to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, NoReturn, Protocol

import msgspec

from cluster.store import safe_name
from conf.errors import UsageError, some, suggest
from tables.casting import ColumnType

Severity = Literal["warn", "quarantine", "stop"]
Types = Mapping[str, ColumnType]
# How many seconds each unit of an age has.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"\d+(\.\d+)?[smhdw]")


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The values of `columns` are among those of the columns `to` of the dataset `table`; rows that lack one are not asked."""

    columns: list[str]
    table: str
    to: list[str]
    severity: Severity = "quarantine"

    @property
    def name(self) -> str:
        return f"{'+'.join(self.columns)} in {self.table}"


class RowCount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many rows the table has; `change` is the largest share by which their number may differ from that of the last snapshot."""

    min: int | None = None
    max: int | None = None
    change: float | None = None
    severity: Severity = "stop"


class Freshness(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The latest value of `column` is at most `max_age` old: a number and one of s, m, h, d, w."""

    column: str
    max_age: str
    severity: Severity = "stop"


def seconds_of(age: str) -> float:
    return float(age[:-1]) * _UNITS[age[-1]]


class Distribution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far a column may move from the last snapshot: Population Stability Index, and Kolmogorov-Smirnov distance (0 to 1) of numbers."""

    psi: float | None = None
    ks: float | None = None
    severity: Severity = "warn"


class Promises(Protocol):
    """The fields of a contract that are about the whole table."""

    @property
    def unique(self) -> list[list[str]]: ...
    @property
    def references(self) -> list[Reference]: ...
    @property
    def rows(self) -> RowCount | None: ...
    @property
    def freshness(self) -> Freshness | None: ...
    @property
    def distributions(self) -> dict[str, Distribution]: ...


def check_promises(promises: Promises, types: Types) -> None:
    """Raise UsageError, naming the field, where a promise does not fit columns of these types."""
    _check_unique(promises.unique, types)
    _check_references(promises.references, types)
    if promises.rows:
        _check_rows(promises.rows)
    if promises.freshness:
        _check_freshness(promises.freshness, types)
    for name, bounds in promises.distributions.items():
        _check_distribution(name, bounds, types)


def _check_unique(unique: list[list[str]], types: Types) -> None:
    for names in unique:
        _known("unique", names, types)
    if len({frozenset(names) for names in unique}) < len(unique):
        _refuse("unique says the same twice", unique, "each set of columns once")


def _check_references(references: list[Reference], types: Types) -> None:
    for each in references:
        _known("references.columns", each.columns, types)
        safe_name("references.table", each.table)
        if len(each.to) != len(each.columns):
            _refuse("references.to names another number of columns than references.columns", each.to, f"{len(each.columns)} columns")
    if len({each.name for each in references}) < len(references):
        _refuse("references says the same twice", [each.name for each in references], "the same columns in one table once")


def _check_rows(rows: RowCount) -> None:
    _of_the_table("rows", rows.severity)
    for name in ("min", "max", "change"):
        _not_negative(f"rows.{name}", getattr(rows, name))
    if rows.min is not None and rows.max is not None and rows.min > rows.max:
        _refuse("rows.min is above rows.max", rows.min, f"at most {rows.max}")


def _check_freshness(fresh: Freshness, types: Types) -> None:
    _of_the_table("freshness", fresh.severity)
    _known("freshness.column", [fresh.column], types)
    if types[fresh.column] not in ("date", "timestamp"):
        _refuse(f"freshness.column is a {types[fresh.column]}", fresh.column, "a column of type date or timestamp")
    if not _AGE.fullmatch(fresh.max_age):
        _refuse("freshness.max_age is no age", fresh.max_age, "a number and a unit (s, m, h, d, w), such as 7d")


def _check_distribution(name: str, bounds: Distribution, types: Types) -> None:
    _known("distributions", [name], types)
    _of_the_table(f"distributions.{name}", bounds.severity)
    _not_negative(f"distributions.{name}.psi", bounds.psi)
    _not_negative(f"distributions.{name}.ks", bounds.ks)
    if bounds.ks is not None and types[name] == "string":
        _refuse("distributions.ks orders values, and text has no order", name, "psi for text")


def _known(field: str, names: list[str], types: Types) -> None:
    if not names or len(set(names)) < len(names):
        _refuse(f"{field} names no column, or one twice", names, "each column once")
    for name in names:
        if name not in types:
            _refuse(f"{field} is not a column{suggest(name, types)}", name, some(types))


def _of_the_table(field: str, severity: Severity) -> None:
    if severity == "quarantine":
        _refuse(f"{field} judges the whole table, so there is no row to quarantine", severity, "severity: warn or stop")


def _not_negative(field: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        _refuse(f"{field} is no bound", value, "0 or more")


def _refuse(what: str, value: object, allowed: str) -> NoReturn:
    raise UsageError(what, value=value, allowed=allowed)
