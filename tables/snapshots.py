"""Snapshots: immutable versions of a table in Delta format, each with the digest of its rows and the SHA-256 of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import pyarrow as pa

from cluster.objects import Folder, ObjectPath
from cluster.store import Store
from conf.errors import RaycycleError, UsageError, some
from tables.evolution import additions, changes, delta_types
from tables.log import (
    ADDED,
    DIGEST,
    FILES,
    MODE,
    began_at,
    digest_of,
    file_digests,
    foreign,
    going_on,
    history,
    info,
    named_at,
    tombstone,
    vacuumed,
)
from tables.parts import Part as Part
from tables.parts import SnapshotFile as SnapshotFile
from tables.parts import orphans_of
from tables.parts import read as read
from tables.parts import write_part as write_part
from tables.places import delta, latest, renewed
from tables.places import table_folder as table_folder
from tables.rows import TableDigest
from tables.transactions import Conflict, create, widen, write

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class Snapshot:
    """Version `version` of table `name`; `files` are its Parquet files, `digest` is that of its rows in any order."""

    name: str
    version: int
    folder: Folder
    digest: TableDigest
    files: tuple[SnapshotFile, ...]

    @property
    def paths(self) -> tuple[Folder, ...]:
        return tuple(file.path for file in self.files)

    @property
    def rows(self) -> int:
        return self.digest.rows

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def commit(
    store: Store,
    name: str,
    schema: pa.Schema,
    parts: Sequence[Part],
    mode: Literal["replace", "append"] = "replace",
    *,
    onto: int | None = None,
    once: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Snapshot:
    """Make `parts` the next version of the table, alone (replace) or beside the rows that are there (append), in one transaction.

    Two writers at once: whoever comes second appends to what the first one made. A replacement stands only on the version it was computed
    against, `onto` (as `head` told it before the source was read; null: the latest when this was called), and is else refused.
    The same rows again are the version that is there, if it is whole; rows appended under the same `once` since the last replacement
    are not appended again, so that a writer that was killed may do it all once more.
    Appending to a table of other columns follows `tables.evolution`; what changes is told to `say`.
    Raises UsageError when refused. The parts are then still there: `discard` them.
    """
    folder = table_folder(store, name)
    table = latest(folder)
    while True:
        at = table.version() if table else -1
        onto = at if onto is None else onto
        if made := _made_before(name, folder, table, schema, parts, mode, once):
            discard(store, name, parts)
            return made
        if mode == "replace" and at != onto:
            raise _overtaken(store, name, onto)
        try:
            if table is None or mode == "replace":
                _replace(folder, table, schema, parts, once, say)
            elif not _widen(name, folder, table, schema, say):
                _append(folder, table, schema, parts, once)
            else:  # that was a version of its own, and the rows come next
                table = renewed(folder, table)
                continue
        except Conflict:
            # A store may do what it is told and its answer be lost: then it was this writer itself who came first.
            if not parts or parts[0].path not in named_at(folder, at + 1):
                table = renewed(folder, table)
                continue
        return _opened(name, folder, table if table and table.version() == at + 1 else delta(folder, at + 1))


def head(store: Store, name: str) -> int:
    """The number of the table's latest version, -1 where there is none."""
    table = latest(table_folder(store, name))
    return table.version() if table else -1


def schema_of(store: Store, name: str) -> pa.Schema | None:
    """The columns of the table's latest version in the types that Delta keeps, None where there is no table."""
    table = latest(table_folder(store, name))
    return pa.schema(table.schema()) if table else None


def refuse_unlike(store: Store, name: str, schema: pa.Schema) -> list[str]:
    """The columns that appending rows of `schema` would add. Raises UsageError where they cannot be appended; before any row is read."""
    there = schema_of(store, name)
    return [field.name for field in additions(name, there, delta_types(schema))] if there else []


def _made_before(
    name: str, folder: Folder, table: DeltaTable | None, schema: pa.Schema, parts: Sequence[Part], mode: str, once: str | None
) -> Snapshot | None:
    """The version that holds these rows already."""
    if table is None:
        return None
    if mode == "replace":
        return _whole(name, folder, table, _rows(parts)) if pa.schema(table.schema()) == delta_types(schema) else None
    done = table.transaction_version(once) if once else None
    return _opened(name, folder, table) if done is not None and done >= began_at(info(folder, table.version()), table.version()) else None


def _replace(
    folder: Folder, table: DeltaTable | None, schema: pa.Schema, parts: Sequence[Part], once: str | None, say: Callable[[str], None]
) -> None:
    told = {DIGEST: str(_rows(parts)), FILES: json.dumps(_digests(folder, parts), sort_keys=True), MODE: "replace"}
    if table is None:
        create(folder, schema, parts, told, once)
        return
    changed = changes(pa.schema(table.schema()), delta_types(schema))
    write(folder, table, schema, parts, "overwrite", told, None)
    if changed:
        say(f"the table has other columns than before: {some(changed)}")


def _append(folder: Folder, table: DeltaTable, schema: pa.Schema, parts: Sequence[Part], once: str | None) -> None:
    at = table.version()
    told = info(folder, at)
    digest = digest_of(folder, at, told) + _rows(parts)
    told = going_on(told, at, lambda: _named(folder, table, told), _digests(folder, parts))
    write(folder, table, schema, parts, "append", {**told, DIGEST: str(digest), MODE: "append"}, once)


def _widen(name: str, folder: Folder, table: DeltaTable, schema: pa.Schema, say: Callable[[str], None]) -> bool:
    """Whether `schema` adds columns; then they are a version of its own, whose digest is that of the rows as they are read with them."""
    there, at = pa.schema(table.schema()), table.version()
    new = additions(name, there, delta_types(schema))
    if not new:
        return False
    files, told = _opened(name, folder, table).files, info(folder, at)
    wider = pa.schema([*there, *new])
    digest = sum((TableDigest.of(read(replace(file, schema=wider))) for file in files), TableDigest())
    told = going_on(told, at, lambda: {file.name: file.sha256 for file in files}, {})
    widen(folder, table, new, {**told, DIGEST: str(digest), MODE: "schema", ADDED: "true"})
    say(f"{some(field.name for field in new)} added to {name}: null in the {digest.rows:,} rows that are there (version {at + 1})")
    return True


def _rows(parts: Sequence[Part]) -> TableDigest:
    return sum((part.digest for part in parts), TableDigest())


def _digests(folder: Folder, parts: Sequence[Part]) -> dict[str, str]:
    return {part.path: part.sha256 or hashlib.sha256((folder / part.path).read_bytes()).hexdigest() for part in parts}


def _overtaken(store: Store, name: str, onto: int) -> UsageError:
    between = [f"{each.number} ({each.mode}, {'?' if each.rows is None else f'{each.rows:,}'} rows)" for each in history(store, name)]
    return UsageError(
        "the table was changed while its replacement was computed; replacing it now would lose what another writer made",
        value=f"{name}@{onto}" if onto >= 0 else f"no version of {name}",
        allowed=f"a replacement of the latest version; since then: {some(between[: len(between) - onto - 1])}",
        next="run again",
    )


def discard(store: Store, name: str, parts: Sequence[Part]) -> None:
    """Remove written parts that will not be committed."""
    for part in parts:
        (table_folder(store, name) / part.path).unlink(missing_ok=True)


def drop_orphans(store: Store, name: str) -> int:
    """Remove the parts that no version of the table names, old ones included; returns how many. The caller holds the table's lock.

    In an object store nothing is removed: a lock of this machine does not keep out the writers of others, whose parts no version names
    yet. `tables.vacuum` removes them there when they are old.
    """
    folder = table_folder(store, name)
    if isinstance(folder, ObjectPath):
        return 0
    orphans = orphans_of(folder)
    for file in orphans:
        (folder / file.name).unlink(missing_ok=True)
    return len(orphans)


def open_snapshot(store: Store, name: str, version: int | None = None) -> Snapshot:
    """The given version, or the latest. Raises UsageError when there is none, or when it was vacuumed."""
    from deltalake.exceptions import DeltaError

    folder = table_folder(store, name)
    if version is not None and (stone := tombstone(folder, version)):
        raise vacuumed(name, stone)
    try:
        return _opened(name, folder, delta(folder, version))
    except (DeltaError, FileNotFoundError) as error:
        raise UsageError(
            f"there is no snapshot {version if version is not None else ''} of the dataset ({type(error).__name__})".replace("  ", " "),
            value=name,
            next="raycycle run --until ingest makes one",
        ) from None


def _opened(name: str, folder: Folder, table: DeltaTable) -> Snapshot:
    version = table.version()
    told = info(folder, version)
    digest, sha256 = digest_of(folder, version, told), _named(folder, table, told)
    schema = pa.schema(table.schema()) if ADDED in told else None
    files = tuple(SnapshotFile(folder / each, sha256[each], schema) for each in sorted(sha256))
    return Snapshot(name, version, folder, digest, files)


def _named(folder: Folder, table: DeltaTable, told: dict[str, Any]) -> dict[str, str]:
    """The files of the version with their SHA-256, empty where its commit, which `told` this, did not record them."""
    names = {unquote(uri.removeprefix("file://").rsplit("/", 1)[-1]) for uri in table.file_uris()}
    sha256 = file_digests(folder, told)
    if sha256 is not None and names != set(sha256):
        raise foreign(folder, table.version(), "it names other files than were recorded")
    return sha256 or dict.fromkeys(names, "")


def _whole(name: str, folder: Folder, table: DeltaTable, digest: TableDigest) -> Snapshot | None:
    """The version, if it has these rows and its files are whole: ingesting the same rows again must mend a damaged one."""
    try:
        snapshot = _opened(name, folder, table)
        if snapshot.digest != digest:
            return None
        for file in snapshot.files:
            file.content()
    except (RaycycleError, FileNotFoundError):
        return None
    return snapshot
