"""Snapshots: immutable versions of a table in Delta format, each with the digest of its rows."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.store import Store, safe_name
from conf.errors import RaycycleError, UsageError
from tables.rows import TableDigest

_DIGEST = "raycycle.digest"


@dataclass(frozen=True)
class Snapshot:
    """Version `version` of table `name`; `files` are its Parquet files, `digest` is that of its rows in any order."""

    name: str
    version: int
    folder: Path
    digest: TableDigest
    files: tuple[Path, ...]

    @property
    def rows(self) -> int:
        return self.digest.rows

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Part:
    """One written Parquet file that no version names yet."""

    path: str
    size: int
    digest: TableDigest


def table_folder(store: Store, name: str) -> Path:
    return store.tables / safe_name("dataset", name)


def write_part(folder: Path, rows: pa.Table) -> Part:
    """Write `rows` beside the table's files. It stays invisible until `commit` names it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = f"part-{uuid.uuid4().hex}.parquet"
    try:
        pq.write_table(rows, folder / path, compression="zstd")
    except OSError as error:
        (folder / path).unlink(missing_ok=True)
        raise RaycycleError(
            f"could not write the snapshot ({error})", value=str(folder / path), next="free space, then run again"
        ) from error
    return Part(path, (folder / path).stat().st_size, TableDigest.of(rows))


def commit(store: Store, name: str, schema: pa.Schema, parts: Sequence[Part]) -> Snapshot:
    """Make `parts` the next version of the table in one transaction. The same rows again are the version that is there."""
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

    folder = table_folder(store, name)
    digest = sum((part.digest for part in parts), TableDigest())
    exists = DeltaTable.is_deltatable(str(folder))
    if exists and (latest := open_snapshot(store, name)).digest == digest and pq.read_schema(latest.files[0]).equals(schema):
        for part in parts:
            (folder / part.path).unlink()
        return latest
    adds = [AddAction(p.path, p.size, {}, int(time.time() * 1000), True, json.dumps({"numRecords": p.digest.rows})) for p in parts]
    properties = CommitProperties(custom_metadata={_DIGEST: str(digest)})
    if exists:
        actions: list[AddAction | RemoveAction] = [*adds]
        DeltaTable(str(folder)).create_write_transaction(actions, mode="overwrite", schema=schema, commit_properties=properties)
    else:
        create_table_with_add_actions(str(folder), Schema.from_arrow(schema), adds, mode="error", commit_properties=properties)
    return open_snapshot(store, name)


def discard(store: Store, name: str, parts: Sequence[Part]) -> None:
    """Remove written parts that will not be committed."""
    for part in parts:
        (table_folder(store, name) / part.path).unlink(missing_ok=True)


def open_snapshot(store: Store, name: str, version: int | None = None) -> Snapshot:
    """The given version, or the latest. Raises UsageError when there is none."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    folder = table_folder(store, name)
    try:
        table = DeltaTable(str(folder), version=version)
        digest = _digest(folder, table.version())
    except (TableNotFoundError, DeltaError, FileNotFoundError) as error:
        raise UsageError(
            f"there is no snapshot {version if version is not None else ''} of the dataset ({type(error).__name__})".replace("  ", " "),
            value=name,
            next="raycycle run --until ingest makes one",
        ) from None
    files = sorted(folder / unquote(uri.removeprefix("file://").rsplit("/", 1)[-1]) for uri in table.file_uris())
    return Snapshot(name, table.version(), folder, digest, tuple(files))


def _digest(folder: Path, version: int) -> TableDigest:
    # Not `DeltaTable.history`: it counts back from the version that was opened, but tells of the newest commits.
    actions = (folder / "_delta_log" / f"{version:020}.json").read_text(encoding="utf-8").splitlines()
    return TableDigest.parse(next(info[_DIGEST] for line in actions if (info := json.loads(line).get("commitInfo"))))


def read(file: Path, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """One file of a snapshot as plain Arrow types."""
    return pq.read_table(file, columns=list(columns) if columns is not None else None, filters=where, use_threads=False, partitioning=None)
