"""What is done to a column before its values are kept: the same at ingest, in batch scoring and at the endpoint.

    email: {type: string, role: observed, class: personal, treatment: drop}
    age: {type: int64, class: personal, treatment: {generalise: {band: 10}}}

Rows that come in are those of the contract; snapshot, encoder and model see those of its `treated_contract`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa

from conf.errors import UsageError, some
from tables.casting import ARROW
from tables.contract import Column, Contract
from tables.privacy.keys import Keyring
from tables.privacy.methods import KINDS, Drop, Generalise, Hash, Tokenise, Treatment
from tables.rules import names_in

PRIVATE = ("personal", "sensitive", "secret")


def from_words(text: str) -> str | dict[str, Any] | None:
    """A treatment as a contract holds it, from how it is typed: `drop`, `mask,keep=4`, `generalise,to=month`; empty is none."""
    kind, *params = text.split(",")
    given = {name: _number(value) for name, _, value in (param.partition("=") for param in params)}
    return {kind: given} if given else kind or None


def _number(text: str) -> int | float | str:
    for read in (int, float):
        with contextlib.suppress(ValueError):
            return read(text)
    return text


def default_treatment(column: Column) -> str:
    """What is done to a personal column where nobody says more."""
    if column.role == "key":
        return "hash"
    if column.role in ("feature", "time"):
        return "hash" if column.type == "string" else "generalise,to=month" if column.type in ("date", "timestamp") else ""
    return "" if column.role == "label" else "drop"


def parse(column: Column) -> Treatment | None:
    """The treatment that a column asks for. Raises UsageError for one that does not exist or does not fit the column's type."""
    given = column.treatment
    if given is None:
        return None
    named: dict[str, Any] = {given: {}} if isinstance(given, str) else given
    kind, params = next(iter(named.items()), ("", {}))
    if len(named) != 1 or kind not in KINDS:
        raise UsageError("there is no such treatment", value=given, allowed=", ".join(KINDS))
    try:
        treatment = msgspec.convert(params or {}, KINDS[kind])
    except msgspec.ValidationError as error:
        raise UsageError(
            f"treatment {kind}: {error}", value=params, allowed=some(KINDS[kind].__struct_fields__) or "no parameter"
        ) from None
    if wrong := treatment.check(column.type):
        raise UsageError(f"treatment {kind}: {wrong}", value=params, allowed=(KINDS[kind].__doc__ or "").partition("\n")[0])
    return treatment


def treatments(contract: Contract) -> dict[str, Treatment]:
    """The columns that are not kept as they come. Raises UsageError, naming the column, where a treatment cannot be."""
    found: dict[str, Treatment] = {}
    for name, column in contract.columns.items():
        try:
            treatment = parse(column)
        except UsageError as error:
            raise UsageError(f"columns.{name}: {error.what}", value=error.value, allowed=error.allowed, next=error.next) from None
        if treatment is not None:
            found[name] = treatment
        if wrong := _unfit(contract, name, column, treatment):
            next = f"raycycle data classify {contract.name} {name}={column.privacy_class or 'personal'}:TREATMENT"
            raise UsageError(f"columns.{name}: {wrong[0]}", value=column.treatment, allowed=wrong[1], next=next)
    return found


def _unfit(contract: Contract, name: str, column: Column, treatment: Treatment | None) -> tuple[str, str] | None:
    """What is wrong with the treatment for what the column is used for, and what may be."""
    if treatment is None:
        levels = column.type in ("string", "date", "timestamp") and column.role != "label"
        if column.privacy_class == "secret" or (column.privacy_class == "personal" and levels):
            return f"it is {column.privacy_class} and nothing is done to it", "drop, hash, mask, generalise or tokenise"
        return None
    if column.role == "label":
        return "a label is learned as it is", "no treatment"
    if column.role == "feature" and isinstance(treatment, Drop | Tokenise):
        return "a feature must be treated alike when a model is asked", "hash, mask or generalise; or role: observed"
    used = {*contract.key, *(each for names in contract.unique for each in names), *(c for r in contract.references for c in r.columns)}
    if name in used and not treatment.separates:
        return "it would join the keys of different rows", "hash or tokenise"
    times = {contract.time, contract.freshness.column if contract.freshness else None}
    if name in times and not (isinstance(treatment, Generalise) and name == contract.time):
        return "it is the time of a row", "generalise with to: month or to: year"
    if name in contract.distributions and isinstance(treatment, Drop):
        return "its distribution is promised", "another treatment"
    return None


def treated_contract(contract: Contract) -> Contract:
    """The contract of the rows after their treatment. Bounds and rules of what has changed are left out: they were checked before."""
    changed = treatments(contract)
    if not changed:
        return contract
    columns = {
        name: _treated_column(column, changed[name]) if name in changed else column
        for name, column in contract.columns.items()
        if not isinstance(changed.get(name), Drop)
    }
    rules = [rule for rule in contract.rules if not names_in(rule.check) & changed.keys()]
    return msgspec.structs.replace(contract, columns=columns, rules=rules)


def _treated_column(column: Column, treatment: Treatment) -> Column:
    kept = {name: getattr(column, name) for name in ("role", "nullable", "privacy_class", "note")}
    return Column(type=treatment.type(column.type), **kept)


def pinned(contract: Contract, keyring: Keyring) -> Contract:
    """The contract with the id of the current key wherever a hash names none: from there on the key stays, whatever is rotated."""
    unpinned = [name for name, each in treatments(contract).items() if isinstance(each, Hash) and each.key is None]
    if not unpinned:
        return contract
    with_key = {"hash": {"key": keyring.current()}}
    columns = {
        name: msgspec.structs.replace(column, treatment=with_key) if name in unpinned else column
        for name, column in contract.columns.items()
    }
    return msgspec.structs.replace(contract, columns=columns)


def treat(contract: Contract, table: pa.Table, keyring: Keyring) -> pa.Table:
    """`table`, typed columns of the contract, as it may be kept: a column is replaced where it stands, or dropped."""
    for name, treatment in treatments(contract).items():
        place = table.schema.get_field_index(name)
        if place < 0:
            continue
        if isinstance(treatment, Drop):
            table = table.remove_column(place)
            continue
        array = table.column(place)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        treated = treatment.apply(array, keyring).cast(ARROW[treatment.type(contract.columns[name].type)])
        table = table.set_column(place, name, treated)
    return table


def treated_alike(one: Contract, other: Contract, columns: Iterable[str]) -> bool:
    """Whether both contracts keep the values of `columns` in the same form; key ids count."""
    first, second = treatments(one), treatments(other)
    return all(first.get(name) == second.get(name) for name in columns)


def placeholder(column: Column) -> Any:
    """A value that the column may hold and that nobody had, as JSON: an example of a row must not tell of one."""
    if column.nullable:
        return None
    if column.type == "string":
        return column.allowed[0] if column.allowed else "text"
    if column.type in ("int64", "double"):
        number = next((bound for bound in (column.min, column.max) if bound is not None), 0)
        return math.ceil(number) if column.type == "int64" else float(number)
    return {"bool": False, "date": "2000-01-01", "timestamp": "2000-01-01T00:00:00Z"}[column.type]


def is_private(column: Column | None) -> bool:
    """Whether values of the column may be shown to nobody: in an error, a log, a report."""
    return column is not None and column.privacy_class in PRIVATE
