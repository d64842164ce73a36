"""Read a table of plain files once, as far as fits in memory, and find out how it is written.

$ raycycle init FILE_OR_FOLDER --label COL
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cluster.progress import Bar, Progress
from conf.errors import UsageError
from tables.look.dialect import find_delimiter, find_encoding
from tables.look.findings import Finding
from tables.sources.files import Files
from tables.sources.formats import UNREADABLE

MAX_ROWS = 1_000_000
MAX_CELLS = 40_000_000
MAX_BYTES = 1 << 30


def find_source(path: str) -> tuple[Files, list[Finding]]:
    """The source with the encoding and delimiter that its files turn out to have."""
    source = Files(path=str(Path(path).expanduser().absolute()))
    found = source.found()
    paths, kind = [each for each, _ in found], found[0][1]
    findings: list[Finding] = []
    if kind == "parquet":
        return source, findings
    encoding = find_encoding(paths)
    if encoding != "utf-8":
        source = replace(source, encoding=encoding)
        findings.append(Finding(kind="source", what="the text is not UTF-8", decision=f"read as {encoding}", warning=True))
    if kind == "csv":
        delimiter = find_delimiter(paths[0], encoding)
        source = replace(source, delimiter=delimiter)
        if delimiter != ",":
            findings.append(Finding(kind="source", what="fields are not separated by commas", decision=f"delimiter is {delimiter!r}"))
    return source, findings


@dataclass(frozen=True)
class Sample:
    """Every `stride`-th row of a table of `rows` rows, without those that could not be read; `unreadable` says which.

    `nulls` are the usual spellings of a null that each text column had.
    """

    table: pa.Table
    rows: int
    unreadable: list[str]
    nulls: dict[str, set[str]]


def look_at(source: Files, progress: Progress) -> Sample:
    """Read everything once and keep rows from all over, so many that they fit in memory."""
    unreadable: list[str] = []
    nulls: dict[str, set[str]] = defaultdict(set)
    kept: list[pa.Table] = []
    rows = held = size = 0
    stride = 1
    words, folders = pa.array(source.null_values, pa.string()), _folder_columns(source)
    # The source leaves the nulls as they are written, so that they can be told.
    as_written = replace(source, unreadable="mark", null_values=())
    with progress.stage("init") as bar:
        for table in as_written.batches():
            good = _with_nulls(_readable(table, unreadable, bar), words, folders, nulls)
            kept.append(good.take(pa.array(range(-rows % stride, good.num_rows, stride), pa.int64())) if stride > 1 else good)
            rows += good.num_rows
            held, size = held + kept[-1].num_rows, size + kept[-1].nbytes
            limit = min(MAX_ROWS, max(MAX_CELLS // max(table.num_columns, 1), 1000))
            while held > limit or (size > MAX_BYTES and held > 1000):
                # Each kept row's number is a multiple of the stride, so dropping every second one doubles it.
                united = _united(kept)
                kept, stride = [united.take(pa.array(range(0, united.num_rows, 2), pa.int64()))], stride * 2
                held, size = kept[0].num_rows, kept[0].nbytes
    if not kept:
        raise UsageError("the table has a header and no rows", value=source.path, allowed="20 rows or more", next="check the file")
    return Sample(_united(kept), rows, unreadable, dict(nulls))


def _readable(table: pa.Table, unreadable: list[str], bar: Bar) -> pa.Table:
    bar.advance(table.num_rows)
    why = table.column(UNREADABLE)
    if why.null_count == len(why):
        return table.drop_columns([UNREADABLE])
    unreadable += why.drop_null().to_pylist()
    return table.filter(why.is_null()).drop_columns([UNREADABLE])


def _folder_columns(source: Files) -> set[str]:
    """Columns that come from the names of folders (`year=2024`), where a source looks for no nulls."""
    root = Path(source.path)
    if not root.is_dir():
        return set()
    parts = {part for path, _ in source.found() for part in Path(path).relative_to(root).parts[:-1]}
    return {part.split("=", 1)[0] for part in parts if "=" in part}


def _with_nulls(table: pa.Table, words: pa.Array, folders: set[str], nulls: dict[str, set[str]]) -> pa.Table:
    for place, name in enumerate(table.column_names):
        column = table.column(place)
        if not pa.types.is_string(column.type) or name in folders:
            continue
        missing = pc.is_in(column, value_set=words)
        if pc.any(missing).as_py():
            nulls[name].update(word for word in pc.unique(column.filter(missing)).to_pylist() if word)
            table = table.set_column(place, name, pc.if_else(missing, pa.scalar(None, pa.string()), column))
    return table


def _united(tables: list[pa.Table]) -> pa.Table:
    """One table; a column whose type differs between blocks (JSON lines, Parquet files) becomes a number if it can, else text."""
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    mixed = {name for name, types in kinds.items() if len(types - {pa.null()}) > 1 and not any(pa.types.is_nested(t) for t in types)}
    same = [
        pa.table({n: c.cast(pa.string()) if n in mixed else c for n, c in zip(table.column_names, table.columns, strict=True)})
        for table in tables
    ]
    return pa.concat_tables(same, promote_options="permissive").combine_chunks()
