"""The source of plain files: CSV, JSON lines or Parquet, as one file, a folder, or a glob.

$ raycycle init flights.csv --label late    # writes a dataset YAML with this class as its source
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import glob
import itertools
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UsageError, suggest
from tables.sources import formats
from tables.sources.fingerprints import fingerprint
from tables.sources.formats import UNREADABLE, Format, Text

if TYPE_CHECKING:
    import ray.data

NULL_VALUES = ("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "Null", "null")
_FORMATS = ("auto", "csv", "jsonl", "parquet")
_STYLES = ("1,234.5", "1.234,5")


@dataclass(frozen=True, kw_only=True)
class Files:
    """CSV, JSON-lines or Parquet: one file, a folder, or a glob.

    `null_values` are spellings of a missing value in any text column, `column_nulls` more of them for one column; `numbers` says how
    numbers with digit groups, decimal commas or currency signs are written; `columns` are those to read, all by default (JSON lines
    need them where keys come and go). `unreadable`: rows with a wrong number of fields are refused, or marked for the quarantine.
    """

    path: str
    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    delimiter: str = ","
    encoding: str = "utf-8"
    null_values: Sequence[str] = NULL_VALUES
    column_nulls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    unreadable: Literal["refuse", "mark"] = "refuse"

    def __post_init__(self) -> None:
        # Hydra hands over its own list and dict classes, which Ray cannot ship and `==` does not equal.
        plain = {
            "null_values": tuple(map(str, self.null_values)),
            "columns": tuple(map(str, self.columns)),
            "column_nulls": {str(name): tuple(map(str, values)) for name, values in self.column_nulls.items()},
            "numbers": {str(name): str(style) for name, style in self.numbers.items()},
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        for name, known in (("format", _FORMATS), ("unreadable", ("refuse", "mark"))):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"source.{name} is unknown{suggest(str(value), known)}", value=value, allowed=", ".join(known))
        for name, style in self.numbers.items():
            if style not in _STYLES:
                raise UsageError(f"source.numbers of {name!r} is unknown", value=style, allowed=" or ".join(_STYLES))
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise UsageError("source.delimiter is not one character", value=self.delimiter, allowed=r"one of , ; | or a tab")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise UsageError("source.encoding is unknown", value=self.encoding, allowed="utf-8, cp1252, latin-1, utf-16 ...") from None

    @property
    def text(self) -> Text:
        return Text(self.delimiter, self.encoding)

    @property
    def reading(self) -> dict[str, Any]:
        """How text is read, apart from where it lies: what scoring must do alike."""
        plain = {"delimiter": self.delimiter, "null_values": list(self.null_values), "numbers": dict(self.numbers)}
        return {**plain, "column_nulls": {name: list(values) for name, values in self.column_nulls.items()}}

    def read_like(self, reading: Mapping[str, Any]) -> Files:
        """These files, read as others were, if they are of the same make: a comma file need not write numbers as a semicolon file did."""
        return replace(self, **reading) if reading and reading["delimiter"] == self.delimiter else self

    def batches(self) -> Iterator[pa.Table]:
        """The rows as small tables, in the order of the files' names, without Ray."""
        found = self.found()
        expected = self.expected(found)
        for path, kind in found:
            yield from _tables(self, path, kind, expected, found[0][0])

    def read(self) -> ray.data.Dataset:
        """The rows as a Ray dataset, one task for each file; blocks keep what their file holds, the contract settles the types."""
        import ray.data

        found = self.found()
        items = [{"path": path, "kind": kind} for path, kind in found]
        one_file = functools.partial(_read_one, source=self, expected=self.expected(found), first=found[0][0])
        files = ray.data.from_items(items, override_num_blocks=len(items))
        return files.map_batches(one_file, batch_size=1, batch_format="pyarrow")

    def found(self) -> list[tuple[str, Format]]:
        """Each data file with its format, sorted by path; hidden files, markers such as _SUCCESS and empty files are not data."""
        root = Path(self.path).expanduser().absolute()
        if root.is_file():
            paths = [root]
        elif root.is_dir():
            if (root / "_delta_log").is_dir():
                raise UsageError("the folder is a Delta table", value=str(root), allowed="a file or folder of CSV, JSON lines or Parquet")
            paths = [p for p in sorted(root.rglob("*")) if _is_data(p.relative_to(root)) and p.is_file() and p.stat().st_size]
        else:
            paths = [Path(p) for p in sorted(glob.glob(str(root), recursive=True)) if Path(p).is_file()]  # noqa: PTH207
        if not paths:
            _nothing_found(root)
        found = [(str(p), formats.format_of(str(p)) if self.format == "auto" else self.format) for p in paths]
        if other := next((path for path, kind in found if kind != found[0][1]), None):
            raise UsageError(
                f"the files have different formats: {found[0][0]} and {other}", allowed="one format", next="name one with a glob"
            )
        return found

    def fingerprint(self, memo: Path | None = None) -> str:
        """SHA-256 of all that the rows depend on; `memo` remembers the files' digests. The folder may lie anywhere."""
        root = Path(self.path).expanduser().absolute()
        # Up to the first part with a wildcard: names below it tell partitions apart.
        steps = itertools.takewhile(lambda part: not glob.has_magic(part), root.parts)
        base = root if root.is_dir() else root.parent if root.is_file() else Path(*steps)
        options = {name: value for name, value in dataclasses.asdict(self).items() if name != "path"}
        return fingerprint({Path(path).relative_to(base).as_posix(): Path(path) for path, _ in self.found()}, options, memo)

    def expected(self, found: list[tuple[str, Format]]) -> list[str] | None:
        """The columns that every file must have; None where only the rows can tell (JSON lines)."""
        if self.columns:
            return list(self.columns)
        return self._names(*found[0])

    def _names(self, path: str, kind: Format) -> list[str] | None:
        if kind == "parquet":
            schema = formats.parquet_schema(path)
            return formats.unique_names(path, schema.names)
        return formats.csv_header(path, self.text)[0] if kind == "csv" else None


def _is_data(relative: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in relative.parts) and any(
        s.lower() in formats.SUFFIXES for s in relative.suffixes[-2:]
    )


def _nothing_found(root: Path) -> None:
    if root.is_dir():
        raise UsageError("the folder holds no data file", value=str(root), allowed="files ending in .csv .tsv .jsonl .parquet (also .gz)")
    near = suggest(root.name, [p.name for p in root.parent.iterdir()]) if root.parent.is_dir() else ""
    raise UsageError(f"the file is missing{near}", value=str(root), allowed="a file, a folder, or a glob in quotes")


def _read_one(batch: pa.Table, source: Files, expected: list[str] | None, first: str) -> Iterator[pa.Table]:
    for item in batch.to_pylist():
        yield from _tables(source, item["path"], item["kind"], expected, first)


def _tables(source: Files, path: str, kind: Format, expected: list[str] | None, first: str) -> Iterator[pa.Table]:
    folders = _partitions(source, path)
    damage: list[str] = []
    if kind != "jsonl" and expected is not None:
        found, chosen = source._names(path, kind) or [], set(expected)
        here = [name for name in found if name in chosen] if source.columns else found
        formats.check_columns(path, here, _without(expected, folders), first)
    wanted = _without(expected, folders) if expected is not None else None
    if kind == "parquet":
        read = formats.read_parquet(path, wanted)
    else:
        read = (formats.read_csv if kind == "csv" else formats.read_jsonl)(path, source.text, wanted, damage.append)
    table = None
    for table in read:
        plain = _plain(table, source, trim=kind == "csv")
        for name, value in folders.items():
            plain = plain.append_column(name, pa.repeat(pa.scalar(value, pa.string()), plain.num_rows))
        yield _marked(plain, source, path, damage)
    if damage:
        empty = table.slice(0, 0) if table is not None else pa.table({name: pa.nulls(0, pa.string()) for name in wanted or []})
        yield _marked(empty, source, path, damage)


def _without(names: list[str], folders: Mapping[str, object]) -> list[str]:
    return [name for name in names if name not in folders]


def _partitions(source: Files, path: str) -> dict[str, str | None]:
    """Columns that Spark and pandas keep in the folders' names (`year=2024/part.parquet`)."""
    root = Path(source.path).expanduser().absolute()
    if not root.is_dir():
        return {}
    pairs = [part.split("=", 1) for part in Path(path).relative_to(root).parent.parts if "=" in part]
    return {name: None if value == "__HIVE_DEFAULT_PARTITION__" else urllib.parse.unquote(value) for name, value in pairs}


def _marked(table: pa.Table, source: Files, path: str, damage: list[str]) -> pa.Table:
    """The table with its unreadable rows at the end: all null, but for the column that says why."""
    if source.unreadable == "mark":
        good = table.append_column(UNREADABLE, pa.nulls(table.num_rows, pa.string()))
        bad = pa.table({UNREADABLE: pa.array([f"{Path(path).name}: {said}" for said in damage], pa.string())})
        damage.clear()
        return pa.concat_tables([good, bad], promote_options="default") if bad.num_rows else good
    if damage:
        rest = f" and {len(damage) - 5} more" if len(damage) > 5 else ""
        raise UsageError(
            f"{path} has rows that cannot be read: {'; '.join(damage[:5])}{rest}",
            allowed="rows with as many fields as the header, JSON lines with one object each",
            next="correct them, or set source.unreadable=mark to send them to the quarantine",
        )
    return table


def _plain(table: pa.Table, source: Files, trim: bool) -> pa.Table:
    arrays = [_plain_column(name, column, source, trim) for name, column in zip(table.column_names, table.columns, strict=True)]
    return pa.table(dict(zip(table.column_names, arrays, strict=True))) if arrays else table


def _plain_column(name: str, column: pa.ChunkedArray, source: Files, trim: bool) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_time(kind):
        return column.cast(pa.string())
    if pa.types.is_duration(kind):
        return pc.divide(column.cast(pa.duration("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
    if _is_text(kind):
        try:
            column = column.cast(pa.string())
        except pa.ArrowInvalid:
            return column
        return _text_column(name, column, source, trim)
    return column


def _is_text(kind: pa.DataType) -> bool:
    # Old writers store text as binary without saying so.
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in texts)


def _text_column(name: str, column: pa.ChunkedArray, source: Files, trim: bool) -> pa.ChunkedArray:
    if trim:
        column = pc.utf8_trim_whitespace(column)
    missing = pc.is_in(column, value_set=pa.array([*source.null_values, *source.column_nulls.get(name, ())], pa.string()))
    if pc.any(missing).as_py():
        column = pc.if_else(missing, pa.scalar(None, pa.string()), column)
    style = source.numbers.get(name)
    return ungrouped(column, style) if style else column


def ungrouped(text: pa.ChunkedArray, style: str) -> pa.ChunkedArray:
    """Numbers in `style`, with or without a currency or percent sign, as plain numbers; other text as it is."""
    bare = pc.replace_substring_regex(text, r"[$€£¥₹%'\s\x{a0}\x{202f}]", "")
    group, point = (",", r"\.") if style == "1,234.5" else (r"\.", ",")
    fits = pc.match_substring_regex(bare, rf"^[+-]?(\d{{1,3}}({group}\d{{3}})+|\d+)({point}\d+)?$")
    plain = pc.replace_substring(bare, group.removeprefix("\\"), "")
    return pc.if_else(fits, plain if point == r"\." else pc.replace_substring(plain, ",", "."), text)
