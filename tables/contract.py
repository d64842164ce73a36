"""The contract: the typed, checkable promise about a table after its source's joins. Training, `score` and HTTP take these rows.

$ raycycle init flights.csv --label late    # writes one, for a person to review
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from conf.errors import UsageError, some, suggest
from tables.casting import ARROW, ColumnType, cast, true_or_false
from tables.features import Task
from tables.rules import check_rule, evaluate, names_in
from tables.sources.formats import UNREADABLE

Role = Literal["feature", "label", "key", "time", "observed"]
Severity = Literal["warn", "quarantine", "stop"]


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one column holds. `observed` columns are known only after the fact, so they are never features.

    `formats` are strptime patterns, or ISO8601, for dates written as text, tried in order.
    """

    type: ColumnType
    role: Role = "feature"
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    allowed: list[str] | None = None
    severity: Severity = "quarantine"
    formats: list[str] | None = None
    note: str = ""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check over several columns of one row: `check` is an expression such as `distance >= 50 and origin != dest`."""

    name: str
    check: str
    severity: Severity = "quarantine"


class Contract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`positive` is the label value that a binary score is the probability of; `key` names a row, wherever it is."""

    name: str
    task: Task
    label: str
    columns: dict[str, Column]
    positive: str | int | bool | None = None
    key: list[str] = []
    time: str | None = None
    max_bad_fraction: float = 0.05
    rules: list[Rule] = []
    format: Literal[1] = 1

    @property
    def features(self) -> list[str]:
        return [name for name, column in self.columns.items() if column.role == "feature"]

    def schema(self, names: list[str] | None = None) -> pa.Schema:
        """The Arrow types of the columns `names`, all by default."""
        return pa.schema([(name, ARROW[self.columns[name].type]) for name in (names or self.columns)])

    def dump(self) -> str:
        """The contract as YAML: what a person edits and a bundle carries."""
        plain = {key: value for key, value in msgspec.to_builtins(self).items() if value not in (None, [])}
        plain["columns"] = {
            name: {k: v for k, v in spec.items() if v is not None and v != "" and not (k == "severity" and v == "quarantine")}
            for name, spec in plain["columns"].items()
        }
        return as_yaml(plain)

    @classmethod
    def load(cls, file: Path) -> Contract:
        """Read and check a contract file; every mistake names the file and the field."""
        try:
            raw = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
            contract = msgspec.convert(raw, cls)
        except FileNotFoundError:
            raise UsageError("contract file is missing", value=str(file), next="raycycle init FILE --label COL writes one") from None
        except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} is not a contract ({error})", next=f"mend the named field in {file}") from None
        contract.validate(file)
        return contract

    def validate(self, file: Path) -> None:
        """Raise UsageError, naming `file`, where parts of the contract contradict each other."""
        for use, names in (("label", [self.label]), ("key", self.key), ("time", [self.time] if self.time else [])):
            for name in names:
                if name not in self.columns:
                    raise UsageError(f"{file}: {use} is not a column{suggest(name, self.columns)}", value=name, allowed=some(self.columns))
        if self.columns[self.label].role != "label":
            raise UsageError(
                f"{file}: the label column has another role",
                value=self.columns[self.label].role,
                allowed="role: label",
                next=f"set columns.{self.label}.role to label",
            )
        if not self.features:
            raise UsageError(f"{file}: no column is a feature", allowed="at least one column with role feature")
        for name, column in self.columns.items():
            for bound in ("min", "max"):
                value = getattr(column, bound)
                if value is not None and (column.type not in ("int64", "double") or not math.isfinite(value)):
                    raise UsageError(f"{file}: {name}.{bound} bounds no {column.type}", value=value, allowed="a number, on int64 or double")
        for rule in self.rules:
            check_rule(rule.check, self.schema())


def as_yaml(plain: dict[str, object]) -> str:
    """YAML that a person reads and a parser gives back unchanged."""
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    # PyYAML writes these three line breaks as they are and reads them back as blanks, unless it escapes all that is not ASCII.
    return yaml.safe_dump(plain, sort_keys=False, width=120) if any(c in text for c in "\x85\u2028\u2029") else text


@dataclass(frozen=True)
class Checked:
    """A batch after the contract: all rows as typed columns, and for each the first `rule` it broke and why (null: none)."""

    typed: pa.Table
    rule: pa.Array
    reason: pa.Array
    warned: dict[str, int]

    @property
    def is_good(self) -> pa.Array:
        return pc.is_null(self.rule)

    @property
    def good(self) -> pa.Table:
        return self.typed.filter(self.is_good)

    @property
    def bad(self) -> pa.Table:
        """The rows that broke a rule, with `_rule` and `_reason`."""
        return self.marked(self.typed)

    def marked(self, table: pa.Table) -> pa.Table:
        """The bad rows as they stand in `table`, which has the same rows, with `_rule` and `_reason`."""
        return table.append_column("_rule", self.rule).append_column("_reason", self.reason).filter(pc.invert(self.is_good))


def check(contract: Contract, table: pa.Table) -> Checked:
    """Cast `table` to the contract's types and sort its rows into good and bad.

    Raises UsageError when a column is missing, cannot hold its type at all, or a rule of severity `stop` is broken.
    """
    return _check(contract, table, list(contract.columns), contract.rules)


def check_features(contract: Contract, table: pa.Table) -> Checked:
    """The same for rows to be answered: they bring the features alone, and no row stops the others.

    A nullable feature that the table lacks is null throughout. Rules over other columns than features cannot be asked.
    """
    names = contract.features
    lacking = [name for name in names if name not in table.column_names and contract.columns[name].nullable]
    for name in lacking:
        table = table.append_column(name, pa.nulls(table.num_rows, ARROW[contract.columns[name].type]))
    rules = [rule for rule in contract.rules if names_in(rule.check) <= set(names)]
    return _check(contract, table, names, rules, stop="quarantine")


def _check(contract: Contract, table: pa.Table, names: list[str], rules: list[Rule], stop: Severity = "stop") -> Checked:
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
        array, unreadable = cast(table.column(name).combine_chunks(), column.type, column.formats)
        arrays.append(array)
        for breach in _breaches(name, column, array, unreadable):
            sorting.note(breach)
    typed = pa.table(dict(zip(names, arrays, strict=True)), schema=contract.schema(names))
    for rule in rules:
        kept = pc.fill_null(evaluate(rule.check, typed), True)
        sorting.note(_Breach(rule.name, rule.severity, pc.invert(kept), f"not {rule.check}"))
    return Checked(typed, sorting.rule, sorting.reason, sorting.warned)


class _Breach(NamedTuple):
    """`mask` (bool [rows], no nulls) says which rows break the rule `name`."""

    name: str
    severity: Severity
    mask: pa.Array
    said: str


class _Sorting:
    """The first rule that each row broke, why, and how many rows broke those rules that only warn."""

    def __init__(self, table: pa.Table, stop: Severity) -> None:
        self.stop = stop
        self.rule = self.reason = pa.nulls(table.num_rows, pa.string())
        self.warned: dict[str, int] = {}
        if UNREADABLE in table.column_names:
            self.reason = table.column(UNREADABLE).combine_chunks()
            self.rule = pc.if_else(pc.is_valid(self.reason), "unreadable", self.rule)

    def note(self, breach: _Breach) -> None:
        count = pc.sum(breach.mask).as_py() or 0
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
        first = pc.and_(breach.mask, pc.is_null(self.rule))
        self.rule, self.reason = pc.if_else(first, breach.name, self.rule), pc.if_else(first, breach.said, self.reason)


def _breaches(name: str, column: Column, array: pa.Array, unreadable: pa.Array) -> Iterator[_Breach]:
    """What is wrong with one column's values, cast to `array`."""
    # A value that cannot be read is never only a warning: it would silently become a null.
    yield _Breach(f"{name}.type", "quarantine", unreadable, f"{name} is not a {column.type}")
    if not column.nullable:
        said = "the label is missing" if column.role == "label" else f"{name} is null"
        yield _Breach(f"{name}.nullable", "quarantine", pc.and_(pc.is_null(array), pc.invert(unreadable)), said)
    if column.min is not None:
        below = true_or_false(pc.less(array, _bound(column.min, array, math.ceil)))
        yield _Breach(f"{name}.min", column.severity, below, f"{name} is below {column.min:g}")
    if column.max is not None:
        above = true_or_false(pc.greater(array, _bound(column.max, array, math.floor)))
        yield _Breach(f"{name}.max", column.severity, above, f"{name} is above {column.max:g}")
    if column.allowed is not None:
        known = pc.is_in(pc.cast(array, pa.string()), value_set=pa.array(column.allowed, pa.string()))
        outside = pc.and_(pc.invert(known), pc.is_valid(array))
        yield _Breach(f"{name}.allowed", column.severity, outside, f"{name} is not in the allowed set")


def _bound(value: float, array: pa.Array, whole: Callable[[float], int]) -> pa.Scalar:
    return pa.scalar(value, pa.float64()) if pa.types.is_floating(array.type) else pa.scalar(whole(value), pa.int64())
