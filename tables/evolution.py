"""How the columns of a table may change: what is added is read as null in older rows, anything else is refused with its fix."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa

from conf.errors import UsageError, some


def delta_types(schema: pa.Schema) -> pa.Schema:
    """The schema in the types that Delta keeps, by which two schemas can be compared."""
    from deltalake import Schema

    return pa.schema(Schema.from_arrow(schema))


def additions(name: str, table: pa.Schema, wanted: pa.Schema) -> list[pa.Field]:
    """The columns of `wanted` that appending would add to the table, in both cases in Delta's types.

    Raises UsageError where a column was removed, renamed, retyped, or added without allowing nulls.
    """
    gone = [field for field in table if field.name not in wanted.names]
    new = [field for field in wanted if field.name not in table.names]
    if gone:
        raise _removed(name, gone, new)
    retyped = [(field, wanted.field(field.name)) for field in table if not _alike(field, wanted.field(field.name))]
    if retyped:
        raise _retyped(name, retyped)
    if strict := [field.name for field in new if not field.nullable]:
        raise UsageError(
            "an added column must allow nulls: the rows that are there have no value for it",
            value=some(strict),
            allowed="nullable: true for a column that is added",
            next=f"make it nullable in the contract, or {_replace(name)}",
        )
    return new


def changes(table: pa.Schema, wanted: pa.Schema) -> list[str]:
    """What replacing the table changes of its columns, in words; empty where nothing does."""
    told = [f"{field.name} is new" for field in wanted if field.name not in table.names]
    told += [f"{field.name} is gone" for field in table if field.name not in wanted.names]
    both = [(field, wanted.field(field.name)) for field in table if field.name in wanted.names]
    return told + [f"{old.name} was {_type(old)} and is {_type(new)}" for old, new in both if not _alike(old, new)]


def widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows of an older file with the columns of `schema`: what the file lacks is null."""
    has = set(table.column_names)
    columns = [table.column(each.name) if each.name in has else pa.nulls(len(table), each.type) for each in schema]
    return pa.table(columns, names=schema.names)


def _removed(name: str, gone: Sequence[pa.Field], new: Sequence[pa.Field]) -> UsageError:
    pairs = [(old, new_name) for old in gone if (new_name := _renamed(old, gone, new))]
    if pairs:
        old, now = pairs[0]
        return UsageError(
            "a column of the table seems to be renamed, and the rows that are there have the old name",
            value=f"{old.name} -> {now}",
            allowed=f"the columns of the table, among them {old.name!r}, and added nullable ones",
            next=f"keep the name {old.name!r} in the contract, or {_replace(name)}",
        )
    return UsageError(
        "the contract lacks columns that the table has",
        value=some(field.name for field in gone),
        allowed="all columns of the table, and added nullable ones",
        next=f"keep them in the contract (role: ignore where the model must not see them), or {_replace(name)}",
    )


def _renamed(old: pa.Field, gone: Sequence[pa.Field], new: Sequence[pa.Field]) -> str | None:
    """The new column that an absent one may be: of its type, with a similar name, or the only one where only one vanished."""
    alike = [field.name for field in new if field.type == old.type]
    close = difflib.get_close_matches(old.name, alike, n=1, cutoff=0.5)
    only = alike if len(gone) == len(new) == 1 else []
    return next(iter([*close, *only]), None)


def _retyped(name: str, retyped: Sequence[tuple[pa.Field, pa.Field]]) -> UsageError:
    return UsageError(
        "a column of the contract has another type than in the table",
        value=some(f"{old.name}: {_type(old)} -> {_type(new)}" for old, new in retyped),
        allowed=some(f"{old.name}: {_type(old)}" for old, _ in retyped),
        next=f"keep the type in the contract, give the new one another name, or {_replace(name)}",
    )


def _alike(old: pa.Field, new: pa.Field) -> bool:
    return bool(old.type == new.type and old.nullable == new.nullable)


def _type(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def _replace(name: str) -> str:
    return f"replace the whole table {name!r} (dataset.write=replace)"
