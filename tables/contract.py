"""The contract: the typed, checkable promise about a table after its source's joins. Training, `score` and HTTP take these rows.

$ raycycle init flights.csv --label late    # writes one, for a person to review
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from conf.errors import UsageError, some, suggest
from tables.casting import ARROW, ColumnType
from tables.features import Task
from tables.promises import Distribution, Freshness, Reference, RowCount, Severity, check_promises
from tables.rules import check_rule
from tables.sources.formats import ORIGIN_FILE, ORIGIN_ROW, UNREADABLE

Role = Literal["feature", "label", "key", "time", "observed"]
PrivacyClass = Literal["public", "internal", "personal", "sensitive", "secret"]
# Columns that raycycle adds beside those of the contract: on the way in, in the quarantine, and in a bundle.
HIDDEN = (ORIGIN_FILE, ORIGIN_ROW, UNREADABLE)
RESERVED = (*HIDDEN, "_rule", "_reason", "_scores")


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one column holds. `observed` columns are known only after the fact, so they are never features.

    `pattern` is an RE2 regular expression that a whole text must match. `formats` are strptime patterns, or ISO8601, for dates written as
    text, tried in order. `class` says whom a value is about, `treatment` what ingest does to it (tables/privacy/treatment.py).
    """

    type: ColumnType
    role: Role = "feature"
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    allowed: list[str] | None = None
    pattern: str | None = None
    severity: Severity = "quarantine"
    formats: list[str] | None = None
    privacy_class: PrivacyClass | None = msgspec.field(name="class", default=None)
    treatment: str | dict[str, Any] | None = None
    note: str = ""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check over several columns of one row: `check` is an expression such as `distance >= 50 and origin != dest`."""

    name: str
    check: str
    severity: Severity = "quarantine"


class Contract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`positive` is the label value that a binary score is the probability of; `key` names a row, wherever it is.

    `unique` are sets of columns in which no two rows of the table are alike; the key is one only where it stands there too.
    """

    name: str
    task: Task
    label: str
    columns: dict[str, Column]
    positive: str | int | bool | None = None
    key: list[str] = []
    time: str | None = None
    max_bad_fraction: float = 0.05
    rules: list[Rule] = []
    unique: list[list[str]] = []
    references: list[Reference] = []
    rows: RowCount | None = None
    freshness: Freshness | None = None
    distributions: dict[str, Distribution] = {}
    format: Literal[1] = 1

    @property
    def features(self) -> list[str]:
        return [name for name, column in self.columns.items() if column.role == "feature"]

    def schema(self, names: list[str] | None = None) -> pa.Schema:
        """The Arrow types of the columns `names`, all by default."""
        return pa.schema([(name, ARROW[self.columns[name].type]) for name in (names or self.columns)])

    def dump(self) -> str:
        """The contract as YAML: what a person edits and a bundle carries."""
        plain = {key: value for key, value in msgspec.to_builtins(self).items() if value not in (None, [], {})}
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
        if not 0 <= self.max_bad_fraction <= 1:
            raise UsageError(f"{file}: max_bad_fraction is no share", value=self.max_bad_fraction, allowed="0 to 1")
        for name, column in self.columns.items():
            _check_column(f"{file}: {name}", name, column)
        for rule in self.rules:
            check_rule(rule.check, self.schema())
        try:
            check_promises(self, {name: column.type for name, column in self.columns.items()})
        except UsageError as error:
            raise UsageError(f"{file}: {error.what}", value=error.value, allowed=error.allowed, next=error.next) from None


def _check_column(where: str, name: str, column: Column) -> None:
    if name in RESERVED:
        raise UsageError(f"{where} is the name of a column that raycycle adds", value=name, next="rename the column in the source")
    for bound in ("min", "max"):
        value = getattr(column, bound)
        if value is not None and (column.type not in ("int64", "double") or not math.isfinite(value)):
            raise UsageError(f"{where}.{bound} bounds no {column.type}", value=value, allowed="a number, on int64 or double")
    if column.min is not None and column.max is not None and column.min > column.max:
        raise UsageError(f"{where}.min is above its max", value=column.min, allowed=f"at most {column.max:g}")
    if column.pattern is not None:
        _check_pattern(where, column.pattern, column.type)


def _check_pattern(where: str, pattern: str, kind: ColumnType) -> None:
    if kind != "string":
        raise UsageError(f"{where}.pattern matches no {kind}", value=pattern, allowed="a pattern, on string")
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        said = str(error).partition("\n")[0]
        raise UsageError(f"{where}.pattern is not an RE2 regular expression ({said})", value=pattern) from None


def as_yaml(plain: dict[str, object]) -> str:
    """YAML that a person reads and a parser gives back unchanged."""
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    # PyYAML writes these three line breaks as they are and reads them back as blanks, unless it escapes all that is not ASCII.
    return yaml.safe_dump(plain, sort_keys=False, width=120) if any(c in text for c in "\x85\u2028\u2029") else text
