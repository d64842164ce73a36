"""The source of plain files: CSV, JSON lines or Parquet, as one file, a folder, or a glob; here or on S3-compatible storage.

$ raycycle init flights.csv --label late    # writes a dataset YAML with this class as its source
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa

from conf.errors import UsageError, suggest
from tables.sources import formats, parquet
from tables.sources.fingerprints import Stamp, fingerprint, refuse_changed, stamp
from tables.sources.formats import UNREADABLE, Format, Text
from tables.sources.listing import Location
from tables.sources.objects import StoredObject, stamps
from tables.sources.plain import plain_column, text_column, with_origin

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
    `path` may begin with s3://, at the `endpoint` (null: $AWS_ENDPOINT_URL, else AWS) and with the keys that every AWS tool uses.
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
    endpoint: str | None = None

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

    @property
    def location(self) -> Location:
        return Location(self.path, self.endpoint)

    def batches(self) -> Iterator[pa.Table]:
        """The rows as small tables, in the order of the files' names, without Ray and without their origin."""
        found = self.found()
        expected = self.expected(found)
        for path, kind in found:
            yield from _tables(self, path, kind, expected, found[0][0], origin=False)

    def read(self) -> ray.data.Dataset:
        """The rows with their origin as a Ray dataset, one task for each file; blocks keep what their file holds, the contract settles
        the types. Raises RaycycleError when a file is changed or removed meanwhile.
        """
        import ray.data

        found = self.found()
        stored = stamps([path for path, _ in found if isinstance(path, StoredObject)])
        before = stored or [stamp(path) for path, _ in found]
        one_file = functools.partial(_read_one, source=self, found=found, before=before, expected=self.expected(found))
        files = ray.data.range(len(found), override_num_blocks=len(found))
        return files.map_batches(one_file, batch_size=1, batch_format="pyarrow")

    def found(self) -> list[tuple[str, Format]]:
        """Each data file with its format, sorted by path."""
        found = [(p, formats.format_of(p) if self.format == "auto" else self.format) for p in self.location.files()]
        if other := next((path for path, kind in found if kind != found[0][1]), None):
            raise UsageError(
                f"the files have different formats: {found[0][0]} and {other}", allowed="one format", next="name one with a glob"
            )
        return found

    def fingerprint(self, memo: Path | None = None) -> str:
        """SHA-256 of all that the rows depend on; `memo` remembers the files' digests. The folder may lie anywhere."""
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("path", "endpoint")}
        files = {self.location.name_of(path): path for path, _ in self.found()}
        return fingerprint(files, options, memo)

    def expected(self, found: list[tuple[str, Format]]) -> list[str] | None:
        """The columns that every file must have; None where only the rows can tell (JSON lines)."""
        if self.columns:
            return list(self.columns)
        return self._names(*found[0])

    def _names(self, path: str, kind: Format) -> list[str] | None:
        if kind == "parquet":
            schema = parquet.parquet_schema(path)
            return formats.unique_names(path, schema.names)
        return formats.csv_header(path, self.text)[0] if kind == "csv" else None


def _read_one(
    batch: pa.Table, source: Files, found: list[tuple[str, Format]], before: list[Stamp], expected: list[str] | None
) -> Iterator[pa.Table]:
    for number in batch.column("id").to_pylist():
        path, kind = found[number]
        try:
            yield from _tables(source, path, kind, expected, found[0][0])
        except UsageError:
            refuse_changed(path, before[number])  # what looks like damage may be that somebody is writing
            raise
        refuse_changed(path, before[number])


class _Damage(NamedTuple):
    """A record that is no row, and why."""

    number: int
    said: str


def _tables(source: Files, path: str, kind: Format, expected: list[str] | None, first: str, origin: bool = True) -> Iterator[pa.Table]:
    name = source.location.name_of(path) if origin else ""
    folders = source.location.partitions_of(path)
    damage: list[_Damage] = []
    if kind != "jsonl" and expected is not None:
        found, chosen = source._names(path, kind) or [], set(expected)
        here = [name for name in found if name in chosen] if source.columns else found
        formats.check_columns(path, here, _without(expected, folders), first)
    wanted = _without(expected, folders) if expected is not None else None
    if kind == "parquet":
        read = parquet.read_parquet(path, wanted)
    else:
        reader = formats.read_csv if kind == "csv" else formats.read_jsonl
        read = reader(path, source.text, wanted, lambda number, said: damage.append(_Damage(number, said)))
    plain = None
    for table, numbers in read:
        plain = _plain(table, source, trim=kind == "csv")
        for folder, value in folders.items():
            plain = plain.append_column(folder, pa.repeat(pa.scalar(value, pa.string()), plain.num_rows))
        yield _marked(plain, numbers, source, path, damage, name)
    if damage:
        empty = plain.slice(0, 0) if plain is not None else pa.table({name: pa.nulls(0, pa.string()) for name in wanted or []})
        yield _marked(empty, pa.array([], pa.int64()), source, path, damage, name)


def _without(names: list[str], folders: Mapping[str, object]) -> list[str]:
    return [name for name in names if name not in folders]


def _marked(table: pa.Table, numbers: pa.Array, source: Files, path: str, damage: list[_Damage], name: str) -> pa.Table:
    """The table with the origin of its rows, and its unreadable rows at the end: all null, but for what says whence and why."""
    if source.unreadable == "refuse" and damage:
        rest = f" and {len(damage) - 5} more" if len(damage) > 5 else ""
        raise UsageError(
            f"{path} has rows that cannot be read: {'; '.join(each.said for each in damage[:5])}{rest}",
            allowed="rows with as many fields as the header, JSON lines with one object each",
            next="correct them, or set source.unreadable=mark to send them to the quarantine",
        )
    good = table.append_column(UNREADABLE, pa.nulls(table.num_rows, pa.string())) if source.unreadable == "mark" else table
    good = with_origin(good, name, numbers) if name else good
    if not damage:
        return good
    bad = pa.table({UNREADABLE: pa.array([f"{Path(path).name}: {each.said}" for each in damage], pa.string())})
    bad = with_origin(bad, name, pa.array([each.number for each in damage], pa.int64())) if name else bad
    damage.clear()
    return pa.concat_tables([good, bad], promote_options="default")


def _plain(table: pa.Table, source: Files, trim: bool) -> pa.Table:
    arrays = {name: _plain_column(name, column, source, trim) for name, column in zip(table.column_names, table.columns, strict=True)}
    return pa.table(arrays) if arrays else table


def _plain_column(name: str, column: pa.ChunkedArray, source: Files, trim: bool) -> pa.ChunkedArray:
    column = plain_column(column)
    if not pa.types.is_string(column.type):
        return column
    return text_column(column, (*source.null_values, *source.column_nulls.get(name, ())), source.numbers.get(name), trim)
