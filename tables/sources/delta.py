"""The source of Delta tables, at a version.

$ raycycle run dataset=orders dataset.source.version=12
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from conf.errors import UsageError, some, suggest
from ledger.digests import of_value
from tables.sources import objects, parquet
from tables.sources.objects import SCHEME, StoredObject
from tables.sources.plain import plain, with_origin

if TYPE_CHECKING:
    import ray.data
    from deltalake import DeltaTable

# What a reader must know of beside plain Parquet files. Deletion vectors are looked for file by file.
_FEATURES = {"deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening", "domainMetadata"}


@dataclass(frozen=True)
class Version:
    """One version: the table's id, its columns, and its files (relative path, size in bytes) with each one's partition values."""

    table: str
    number: int
    schema: pa.Schema
    files: list[tuple[str, int]]
    partitions: list[dict[str, pa.Scalar]]


@dataclass(frozen=True, kw_only=True)
class Delta:
    """The rows of a Delta table; `version` null is the latest when the run first looks, `columns` those to read, all by default.

    `path` may begin with s3://, at the `endpoint` (null: $AWS_ENDPOINT_URL, else AWS) and with the keys that every AWS tool uses.
    """

    path: str
    version: int | None = None
    columns: Sequence[str] = ()
    endpoint: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(map(str, self.columns)))
        if self.version is not None and self.version < 0:
            raise UsageError("source.version is negative", value=self.version, allowed="0, 1, 2 ... or null for the latest")

    def read(self) -> ray.data.Dataset:
        """The rows with their origin as a Ray dataset, one task for each file; the contract settles the types."""
        import ray.data

        found = self.opened
        if not found.files:
            raise UsageError("the Delta table has no rows", value=self.root, next="check source.path and source.version")
        storage = objects.connected(self.endpoint) if self.root.startswith(SCHEME) else None
        one_file = functools.partial(_read_one, root=self.root, storage=storage, version=found, wanted=self._wanted(found.schema.names))
        return ray.data.range(len(found.files), override_num_blocks=len(found.files)).map_batches(
            one_file, batch_size=1, batch_format="pyarrow"
        )

    def fingerprint(self, memo: Path | None = None) -> str:
        """SHA-256 of the table's id, the version, its files' names and sizes: no writer of Delta changes a file."""
        found = self.opened
        told = {"table": found.table, "version": found.number, "files": found.files, "columns": list(self.columns)}
        return of_value({"format": 1, **told})

    @property
    def root(self) -> str:
        return self.path.rstrip("/") if self.path.startswith(SCHEME) else str(Path(self.path).expanduser().absolute())

    @functools.cached_property
    def opened(self) -> Version:
        """Looked at once, so that the rows are those of the version that the fingerprint names."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        options = _options(self.endpoint) if self.root.startswith(SCHEME) else None
        try:
            table = DeltaTable(self.root, version=self.version, storage_options=options)
            _refuse_unsupported(table, self.root)
            return _version(table)
        except TableNotFoundError:
            raise UsageError("there is no Delta table", value=self.root, allowed="a folder with a _delta_log") from None
        except (DeltaError, OSError) as error:
            # The storage's own words may quote a key.
            asked = f"version {self.version} of the Delta table" if self.version is not None else "the Delta table"
            raise UsageError(
                f"{asked} cannot be opened ({type(error).__name__})",
                value=self.root,
                allowed="a version whose log and files are still there",
                next="check source.path, source.version, and for s3:// the endpoint and the keys",
            ) from None

    def _wanted(self, names: list[str]) -> list[str]:
        if unknown := [name for name in self.columns if name not in names]:
            raise UsageError(
                f"source.columns names no column{suggest(unknown[0], names)}", value=unknown[0], allowed=some(names), next="correct it"
            )
        return list(self.columns) or names


def _options(endpoint: str | None) -> dict[str, str]:
    where, place = objects.endpoint_of(endpoint), objects.region()
    names = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY", "session_token": "AWS_SESSION_TOKEN"}
    found = {names[name]: value for name, value in objects.keys().items()}
    if where:
        found |= {"AWS_ENDPOINT_URL": where, "AWS_ALLOW_HTTP": str(where.startswith("http://")).lower()}
    return found | ({"AWS_REGION": place or "us-east-1"} if place or where else {})


def _refuse_unsupported(table: DeltaTable, root: str) -> None:
    features = set(table.protocol().reader_features or ()) - _FEATURES
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    elif "columnMapping" in features:
        features.remove("columnMapping")
    if _has_deletion_vectors(table):
        features.add("deletion vectors (rows deleted without rewriting their file)")
    if features:
        raise UsageError(
            f"the Delta table uses what cannot be read: {', '.join(sorted(features))}",
            value=root,
            allowed="plain Parquet files",
            next="rewrite the table (OPTIMIZE, REORG TABLE ... APPLY (PURGE)), or copy it to a plain one",
        )


def _has_deletion_vectors(table: DeltaTable) -> bool:
    from deltalake.exceptions import DeltaError

    try:
        return pa.table(table.deletion_vectors()).num_rows > 0
    except DeltaError:
        return True  # there is one, and not even Delta's own reader understands it


def _version(table: DeltaTable) -> Version:
    actions = pa.table(table.get_add_actions(flatten=True)).sort_by("path")
    paths = [unquote(path) for path in actions.column("path").to_pylist()]
    if outside := next((path for path in paths if path.startswith("/") or "://" in path or ".." in path.split("/")), None):
        raise UsageError("the Delta table names a file outside its folder", value=outside, next="copy the table with its files")
    names = {name: name.removeprefix("partition.") for name in actions.column_names if name.startswith("partition.")}
    values = [{names[name]: actions.column(name)[i] for name in names} for i in range(actions.num_rows)]
    files = list(zip(paths, actions.column("size_bytes").to_pylist(), strict=True))
    return Version(str(table.metadata().id), table.version(), pa.schema(table.schema().to_arrow()), files, values)


def _read_one(batch: pa.Table, root: str, storage: Any, version: Version, wanted: list[str]) -> Iterator[pa.Table]:
    for number in batch.column("id").to_pylist():
        name, given = version.files[number][0], version.partitions[number]
        path = StoredObject.at(f"{root}/{name}", storage) if storage else f"{root}/{name}"
        has = set(parquet.parquet_schema(path).names)
        for table, numbers in parquet.read_parquet(path, [each for each in wanted if each in has and each not in given]):
            whole = {each: _column(each, table, given, version.schema, len(numbers)) for each in wanted}
            yield with_origin(plain(pa.table(whole)), name, numbers)


def _column(name: str, table: pa.Table, given: Mapping[str, pa.Scalar], schema: pa.Schema, rows: int) -> Any:
    """From the file, from its folder's name, or null where the file is older than the column."""
    if name in table.column_names:
        return table.column(name)
    kind = schema.field(name).type
    return pa.repeat(given[name].cast(kind), rows) if name in given else pa.nulls(rows, kind)
