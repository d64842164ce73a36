"""The Parquet files of a table: written beside the others, checked and read, and those that no version names."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.objects import Folder, Listed, ObjectPath, listed
from cluster.store import writing
from conf.errors import RaycycleError
from ledger.digests import of_file
from tables.evolution import widened
from tables.log import named, tombstones
from tables.rows import TableDigest

_PART = re.compile(r"part-[0-9a-f]{32}\.parquet")  # as `write_part` names them, and nobody else


@dataclass(frozen=True)
class Part:
    """One written Parquet file that no version names yet; `digest` is that of its rows, `sha256` that of its bytes."""

    path: str
    size: int
    digest: TableDigest
    sha256: str = ""


@dataclass(frozen=True)
class SnapshotFile:
    """One Parquet file; `sha256` is what its version recorded, empty for versions written before files were recorded.

    `schema`: the columns it is read with, those that it lacks as null; None for those it has.
    """

    path: Folder
    sha256: str = ""
    schema: pa.Schema | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def content(self) -> bytes:
        """The file's bytes. Raises RaycycleError when they are gone, or are not those that were written."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            stone = next((each for each in tombstones(self.path.parent) if self.name in each.files), None)
            raise self.damage(f"vacuumed on {stone.date[:10]}" if stone else error.strerror or str(error)) from None
        found = hashlib.sha256(content).hexdigest() if self.sha256 else ""
        if found != self.sha256:
            raise self.damage(f"its SHA-256 is {found}, recorded was {self.sha256}")
        return content

    def damage(self, why: str) -> RaycycleError:
        return RaycycleError(f"a file of the snapshot is damaged ({why})", value=str(self.path), next="restore the file, or ingest again")


def write_part(folder: Folder, rows: pa.Table) -> Part:
    """Write `rows` beside the table's files. It stays invisible until `commit` names it."""
    path = f"part-{uuid.uuid4().hex}.parquet"
    file = folder / path
    if isinstance(file, ObjectPath):
        content = pa.BufferOutputStream()
        pq.write_table(rows, content, compression="zstd")
        data = content.getvalue().to_pybytes()
        file.write_bytes(data)
        return Part(path, len(data), TableDigest.of(rows), hashlib.sha256(data).hexdigest())
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(file):
            pq.write_table(rows, file, compression="zstd")
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return Part(path, file.stat().st_size, TableDigest.of(rows), of_file(file))


def read(file: SnapshotFile, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """One file of a snapshot as plain Arrow types. Raises RaycycleError when it is not the file that was written."""
    wanted = list(columns) if columns is not None else None
    # The bytes that are checked are the bytes that are parsed: a file read twice could change in between.
    content = pa.BufferReader(file.content())
    try:
        if file.schema is None:
            return pq.read_table(content, columns=wanted, filters=where, use_threads=False, partitioning=None)
        table = widened(pq.read_table(content, use_threads=False, partitioning=None), file.schema)
    except (pa.ArrowInvalid, OSError) as error:
        if file.sha256:
            raise  # the file is whole: it is the question that was wrong
        raise file.damage(str(error)) from None
    table = table if where is None else table.filter(where)
    return table if wanted is None else table.select(wanted)


def orphans_of(folder: Folder) -> list[Listed]:
    """The parts that no version of the table names. The log is read last: a part is there before a version names it."""
    parts = [file for file in listed(folder) if _PART.fullmatch(file.name)]
    known = named(folder) if parts else set()
    return [file for file in parts if file.name not in known]
