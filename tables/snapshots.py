"""Snapshots: immutable versions of a table in Delta format, each with the digest of its rows and the SHA-256 of its files."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.store import Store, safe_name, writing
from conf.errors import RaycycleError, UsageError
from ledger.digests import of_file
from tables.rows import TableDigest

_DIGEST, _FILES = "raycycle.digest", "raycycle.files"
_PART = re.compile(r"part-[0-9a-f]{32}\.parquet")  # as `write_part` names them, and nobody else


@dataclass(frozen=True)
class SnapshotFile:
    """One Parquet file; `sha256` is what its version recorded, empty for versions written before files were recorded."""

    path: Path
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.path.name

    def content(self) -> bytes:
        """The file's bytes. Raises RaycycleError when they are gone, or are not those that were written."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise self.damage(error.strerror or str(error)) from None
        found = hashlib.sha256(content).hexdigest() if self.sha256 else ""
        if found != self.sha256:
            raise self.damage(f"its SHA-256 is {found}, recorded was {self.sha256}")
        return content

    def damage(self, why: str) -> RaycycleError:
        return RaycycleError(f"a file of the snapshot is damaged ({why})", value=str(self.path), next="restore the file, or ingest again")


@dataclass(frozen=True)
class Snapshot:
    """Version `version` of table `name`; `files` are its Parquet files, `digest` is that of its rows in any order."""

    name: str
    version: int
    folder: Path
    digest: TableDigest
    files: tuple[SnapshotFile, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(file.path for file in self.files)

    @property
    def rows(self) -> int:
        return self.digest.rows

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Part:
    """One written Parquet file that no version names yet; `digest` is that of its rows, `sha256` that of its bytes."""

    path: str
    size: int
    digest: TableDigest
    sha256: str = ""


def table_folder(store: Store, name: str) -> Path:
    """Where the table lies. Raises UsageError when the name, or a link of that name, leads out of the store."""
    folder = store.tables / safe_name("dataset", name)
    if not folder.resolve().is_relative_to(store.tables.resolve()):
        raise UsageError(
            "the table's folder is a link out of the store",
            value=str(folder),
            allowed=f"a folder in {store.tables}",
            next="move the table there, or set store.root",
        )
    return folder


def write_part(folder: Path, rows: pa.Table) -> Part:
    """Write `rows` beside the table's files. It stays invisible until `commit` names it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = f"part-{uuid.uuid4().hex}.parquet"
    try:
        with writing(folder / path):
            pq.write_table(rows, folder / path, compression="zstd")
    except BaseException:
        (folder / path).unlink(missing_ok=True)
        raise
    return Part(path, (folder / path).stat().st_size, TableDigest.of(rows), of_file(folder / path))


def commit(store: Store, name: str, schema: pa.Schema, parts: Sequence[Part]) -> Snapshot:
    """Make `parts` the next version of the table in one transaction. The same rows again are the version that is there, if it is whole."""
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

    folder = table_folder(store, name)
    digest = sum((part.digest for part in parts), TableDigest())
    table = DeltaTable(str(folder)) if DeltaTable.is_deltatable(str(folder)) else None
    if table and table.schema() == Schema.from_arrow(schema) and (latest := _latest_whole(store, name, digest)):
        discard(store, name, parts)
        return latest
    adds = [AddAction(p.path, p.size, {}, int(time.time() * 1000), True, json.dumps({"numRecords": p.digest.rows})) for p in parts]
    files = {part.path: part.sha256 or of_file(folder / part.path) for part in parts}
    properties = CommitProperties(custom_metadata={_DIGEST: str(digest), _FILES: json.dumps(files, sort_keys=True)})
    version = table.version() + 1 if table else 0
    with writing(folder / "_delta_log" / f"{version:020}.json"):
        if table:
            actions: list[AddAction | RemoveAction] = [*adds]
            table.create_write_transaction(actions, mode="overwrite", schema=schema, commit_properties=properties)
        else:
            create_table_with_add_actions(str(folder), Schema.from_arrow(schema), adds, mode="error", commit_properties=properties)
    return open_snapshot(store, name)


def discard(store: Store, name: str, parts: Sequence[Part]) -> None:
    """Remove written parts that will not be committed."""
    for part in parts:
        (table_folder(store, name) / part.path).unlink(missing_ok=True)


def drop_orphans(store: Store, name: str) -> int:
    """Remove the parts that no version of the table names, old ones included; returns how many. The caller holds the table's lock."""
    folder = table_folder(store, name)
    named = _named(folder / "_delta_log")
    orphans = [file for file in folder.glob("part-*.parquet") if _PART.fullmatch(file.name) and file.name not in named]
    for file in orphans:
        file.unlink(missing_ok=True)
    return len(orphans)


def _named(log: Path) -> set[str]:
    """Every file that the table's log ever added or removed; checkpoints tell of commits whose own file was cleared away."""
    told = [json.loads(line) for file in log.glob("*.json") for line in file.read_text(encoding="utf-8").splitlines()]
    for checkpoint in log.glob("*.checkpoint*.parquet"):
        told += pq.read_table(checkpoint, columns=["add", "remove"]).to_pylist()
    return {unquote(action[kind]["path"]) for action in told for kind in ("add", "remove") if action.get(kind)}


def open_snapshot(store: Store, name: str, version: int | None = None) -> Snapshot:
    """The given version, or the latest. Raises UsageError when there is none."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    folder = table_folder(store, name)
    try:
        table = DeltaTable(str(folder), version=version)
        digest, sha256 = _recorded(folder, table.version())
    except (TableNotFoundError, DeltaError, FileNotFoundError) as error:
        raise UsageError(
            f"there is no snapshot {version if version is not None else ''} of the dataset ({type(error).__name__})".replace("  ", " "),
            value=name,
            next="raycycle run --until ingest makes one",
        ) from None
    names = sorted(unquote(uri.removeprefix("file://").rsplit("/", 1)[-1]) for uri in table.file_uris())
    if sha256 is not None and names != sorted(sha256):
        raise _foreign(folder, table.version(), "it names other files than were recorded")
    files = tuple(SnapshotFile(folder / each, sha256[each] if sha256 else "") for each in names)
    return Snapshot(name, table.version(), folder, digest, files)


def _recorded(folder: Path, version: int) -> tuple[TableDigest, dict[str, str] | None]:
    """The digest of the version's rows, and the SHA-256 of each of its files, None for versions that did not record them."""
    # Not `DeltaTable.history`: it counts back from the version that was opened, but tells of the newest commits.
    actions = (folder / "_delta_log" / f"{version:020}.json").read_text(encoding="utf-8").splitlines()
    info: dict[str, str] = next((found for line in actions if (found := json.loads(line).get("commitInfo"))), {})
    if _DIGEST not in info:
        raise _foreign(folder, version, "it has no digest of its rows")
    return TableDigest.parse(info[_DIGEST]), json.loads(info[_FILES]) if _FILES in info else None


def _foreign(folder: Path, version: int, why: str) -> RaycycleError:
    what = f"version {version} of the table was not written by raycycle ({why})"
    return RaycycleError(what, value=str(folder), next="open another version, or ingest again")


def _latest_whole(store: Store, name: str, digest: TableDigest) -> Snapshot | None:
    """The latest version, if it has these rows and its files are whole: ingesting the same rows again must mend a damaged one."""
    try:
        snapshot = open_snapshot(store, name)
        if snapshot.digest != digest:
            return None
        for file in snapshot.files:
            file.content()
    except RaycycleError:
        return None
    return snapshot


def read(file: SnapshotFile, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """One file of a snapshot as plain Arrow types. Raises RaycycleError when it is not the file that was written."""
    wanted = list(columns) if columns is not None else None
    # The bytes that are checked are the bytes that are parsed: a file read twice could change in between.
    content = pa.BufferReader(file.content())
    try:
        return pq.read_table(content, columns=wanted, filters=where, use_threads=False, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        if file.sha256:
            raise  # the file is whole: it is the question that was wrong
        raise file.damage(str(error)) from None
