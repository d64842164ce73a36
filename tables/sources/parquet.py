"""One Parquet file as a stream of small Arrow tables; what could carry code, or claims what no file can hold, is refused unopened."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import UsageError
from tables.sources import packed
from tables.sources.formats import Numbered, numbered, unique_names
from tables.sources.objects import StoredObject
from tables.sources.packed import open_raw, unreadable

# What the key of an extension column looks like inside the base64 of a Parquet footer, at each of its three alignments.
_EXTENSION_MARKS = tuple(base64.b64encode(b"\0" * shift + b"ARROW:extension:name")[4 * (shift > 0) :][:20] for shift in (0, 1, 2))


def parquet_schema(path: str) -> pa.Schema:
    """The schema; a file with extension types is refused before Arrow opens it, since a type may run code when it is rebuilt."""
    try:
        with open_raw(path) as raw:
            return _metadata(raw, path)[1]
    except OSError as error:
        raise unreadable(path, error, "the Parquet file is damaged") from None


def _metadata(raw: pa.NativeFile, path: str) -> tuple[pq.FileMetaData, pa.Schema]:
    size = raw.size()
    raw.seek(max(size - 8, 0))
    tail = raw.read(8)
    if size < 12 or tail[4:] not in (b"PAR1", b"PARE"):
        raise UsageError("the Parquet file is cut off or is no Parquet file", value=str(path), next="fetch or write it again")
    if tail[4:] == b"PARE":
        raise UsageError("the Parquet file is encrypted", value=str(path), next="write it without encryption")
    raw.seek(max(size - 8 - int.from_bytes(tail[:4], "little"), 0))
    footer = raw.read()
    if not any(mark in footer for mark in _EXTENSION_MARKS):
        try:
            metadata = pq.read_metadata(raw)
            schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, error, "the Parquet file is damaged") from None
        if not any(isinstance(field.type, pa.BaseExtensionType) for field in schema):
            unique_names(path, schema.names)
            _refuse_absurd(metadata, size, path)
            return metadata, schema
    raise UsageError(
        f"{path} has columns of an Arrow extension type, which are refused: they can carry code",
        allowed="plain Arrow types",
        next="cast them to string or number where the file is written",
    )


def _refuse_absurd(metadata: pq.FileMetaData, size: int, path: str) -> None:
    """A row group is unpacked whole, page by page: what it claims to hold must be in proportion to the file."""
    claimed = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
    limit = packed.FREE_BYTES + packed.MAX_RATIO * size
    if claimed > limit or metadata.num_rows > packed.FREE_BYTES * (1 + size // 1024):
        raise UsageError(
            f"the Parquet file claims a row group of {claimed:,} bytes and {metadata.num_rows:,} rows in a file of {size:,} bytes",
            value=str(path),
            allowed=f"row groups up to {limit:,} bytes",
            next="check where the file comes from, or write it again with smaller row groups",
        )


def read_parquet(path: str, columns: list[str] | None) -> Iterator[Numbered]:
    """Values keep their types; names are cleaned as those of the other formats are."""
    number = 1
    try:
        with open_raw(path) as raw:
            metadata, schema = _metadata(raw, path)
            names = schema.names
            clean = unique_names(path, names)
            renamed, place = dict(zip(names, clean, strict=True)), {name: i for i, name in enumerate(clean)}
            wanted = [place[name] for name in columns] if columns is not None else list(range(len(names)))
            rows = min(max(4_000_000 // max(len(names), 1), 1024), 65_536)
            # Selected after reading where a dot in a name would be taken for a path into a nested column.
            chosen = [names[i] for i in wanted] if not any("." in name for name in names) else None
            with pq.ParquetFile(raw, metadata=metadata, pre_buffer=isinstance(path, StoredObject)) as file:
                for batch in file.iter_batches(batch_size=rows, columns=chosen, use_threads=False):
                    table = pa.Table.from_batches([batch])
                    table = table.rename_columns([renamed[name] for name in table.column_names]).select([clean[i] for i in wanted])
                    yield table, numbered(number, table.num_rows, [])
                    number += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, "the Parquet file is damaged") from None
