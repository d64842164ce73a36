"""One step of a table's log: the next version, or word that another writer made it first. Nothing is tried twice here."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from cluster.objects import Folder
from cluster.store import writing
from tables.places import LOG, options, reaching
from tables.rows import TableDigest

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, CommitProperties, PostCommitHookProperties


class Conflict(Exception):
    """Another writer made the version first; what was written has changed nothing."""


class Added(Protocol):
    """What is told of a file that a version adds (`tables.snapshots.Part`)."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def digest(self) -> TableDigest: ...


def create(folder: Folder, schema: pa.Schema, files: Sequence[Added], told: Mapping[str, str], once: str | None) -> None:
    """Version 0 of a new table."""
    from deltalake import Schema
    from deltalake.transaction import create_table_with_add_actions

    properties, hooks = _properties(told, once, 0)
    with _step(folder, -1):
        create_table_with_add_actions(
            str(folder),
            Schema.from_arrow(schema),
            _actions(files),
            mode="error",
            storage_options=options(folder),
            commit_properties=properties,
            post_commithook_properties=hooks,
        )


def write(
    folder: Folder, table: DeltaTable, schema: pa.Schema, files: Sequence[Added], mode: str, told: Mapping[str, str], once: str | None
) -> None:
    """The version after `table`. `mode` overwrite: of these files and this schema alone; append: with them too, the schema as it is."""
    before = table.version()
    properties, hooks = _properties(told, once, before + 1)
    with _step(folder, before):
        table.create_write_transaction(
            list(_actions(files)), mode=mode, schema=schema, commit_properties=properties, post_commithook_properties=hooks
        )


def widen(folder: Folder, table: DeltaTable, fields: Sequence[pa.Field], told: Mapping[str, str]) -> None:
    """The version after `table`: the same files, and more columns that may be null."""
    from deltalake import Schema

    before = table.version()
    properties, hooks = _properties(told, None, before + 1)
    with _step(folder, before):
        new = Schema.from_arrow(pa.schema(fields)).fields
        table.alter.add_columns(new, commit_properties=properties, post_commithook_properties=hooks)


def _actions(files: Sequence[Added]) -> list[AddAction]:
    from deltalake.transaction import AddAction

    now = int(time.time() * 1000)
    return [AddAction(each.path, each.size, {}, now, True, json.dumps({"numRecords": each.digest.rows})) for each in files]


def _properties(told: Mapping[str, str], once: str | None, version: int) -> tuple[CommitProperties, PostCommitHookProperties]:
    """Delta itself must not try again: what is told of a version, its digest among it, holds for its place in the log alone.

    Nor may it clear away old commits: they say of each version which rows it had.
    """
    from deltalake import CommitProperties, PostCommitHookProperties
    from deltalake.transaction import Transaction

    done = [Transaction(once, version)] if once else None
    properties = CommitProperties(custom_metadata=dict(told), max_commit_retries=0, app_transactions=done)
    return properties, PostCommitHookProperties(cleanup_expired_logs=False)


@contextlib.contextmanager
def _step(folder: Folder, before: int) -> Iterator[None]:
    from deltalake.exceptions import DeltaError

    log = folder / LOG / f"{before + 1:020}.json"
    try:
        with reaching(folder), writing(log) if isinstance(log, Path) else contextlib.nullcontext():
            yield
    except (DeltaError, OSError) as error:
        if log.is_file():
            raise Conflict from error
        raise
