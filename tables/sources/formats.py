"""One plain file, CSV, JSON lines or Parquet, as a stream of small Arrow tables; every damage is named with its place."""

from __future__ import annotations

import base64
import codecs
import csv
import io
import json
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from conf.errors import UsageError, some

Format = Literal["csv", "jsonl", "parquet"]
SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv", ".txt", ".data"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq", ".parq"), "parquet"),
}
PACKED = (".gz", ".bz2", ".zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_FOREIGN = {
    b"PK\x03\x04": "a zip or Excel file",
    b"PAR1": "a Parquet file",
    b"\x89PNG": "an image",
    b"%PDF": "a PDF",
    b"SQLi": "a SQLite file",
}
BLOCK_BYTES = 8 << 20
HEADER_BYTES = 2 << 20
# Present only where a source is told to mark what it cannot read: why a row is not one, null for good rows.
UNREADABLE = "_unreadable"
Damaged = Callable[[str], None]


@dataclass(frozen=True)
class Text:
    """How a text file is written."""

    delimiter: str = ","
    encoding: str = "utf-8"


def format_of(path: str) -> Format:
    """By the ending of the name, else by what the file begins with."""
    name = Path(path)
    suffix = (name.with_suffix("") if name.suffix.lower() in PACKED else name).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    start = head(path, 4096)
    if start[:4] == b"PAR1":
        return "parquet"
    return "jsonl" if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") else "csv"


def open_bytes(path: str) -> pa.NativeFile:
    """The bytes of the file, unpacked when they are packed, whatever it is called."""
    raw = pa.OSFile(path)
    start = raw.read(4)
    raw.seek(0)
    codec = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    return pa.CompressedInputStream(raw, codec) if codec else raw


def head(path: str, size: int) -> bytes:
    try:
        with open_bytes(path) as stream:
            return stream.read(size)
    except OSError as error:
        raise _packed_badly(path, error) from None


def open_text(path: str, text: Text) -> pa.NativeFile:
    stream = open_bytes(path)
    return stream if codecs.lookup(text.encoding).name == "utf-8" else pa.transcoding_input_stream(stream, text.encoding, "utf-8")


def unique_names(path: str, names: list[str]) -> list[str]:
    """Names without blanks around them; an unnamed column (pandas writes its index so) is called `column_N`."""
    clean = [name.strip().removeprefix("\ufeff") for name in names]
    clean = [name or f"column_{i}" for i, name in enumerate(clean, 1)]
    double = sorted({name for name in clean if clean.count(name) > 1}) if len(set(clean)) < len(clean) else []
    if double:
        raise UsageError(f"{path} has several columns of one name", value=double[0], allowed="each name once", next="rename one of them")
    return clean


def csv_header(path: str, text: Text) -> tuple[list[str], int]:
    """The column names, and how many empty lines stand before them."""
    start = head(path, HEADER_BYTES)
    if not start.strip():
        raise UsageError("the file is empty", value=path, allowed="a header line and at least one row")
    said = next((said for magic, said in _FOREIGN.items() if start.startswith(magic)), None)
    decoded = codecs.getincrementaldecoder(text.encoding)(errors="replace").decode(start)
    if said or "\0" in decoded[:65_536]:
        raise UsageError(
            f"{path} is not a text file" + (f" but {said}" if said else ": it holds NUL bytes"),
            allowed="CSV, JSON lines, Parquet",
            next="export it as CSV; for UTF-16 text without a byte order mark set source.encoding=utf-16-le",
        )
    csv.field_size_limit(HEADER_BYTES)
    for empty, record in enumerate(csv.reader(io.StringIO(decoded, newline=""), delimiter=text.delimiter)):
        if record:
            return unique_names(path, record), empty
    raise UsageError("the file has no header line", value=path, allowed="a header line and at least one row")


def read_csv(path: str, text: Text, columns: list[str] | None, damaged: Damaged) -> Iterator[pa.Table]:
    """Each column as text, so that no type can differ between files or blocks; the contract casts them."""
    names, empty = csv_header(path, text)
    wanted = columns if columns is not None else names

    def ragged(row: Any) -> str:
        damaged(f"record {row.number} has {row.actual_columns} field{'s' * (row.actual_columns != 1)} instead of {row.expected_columns}")
        return "skip"

    reader = None
    try:
        reader = arrow_csv.open_csv(
            open_text(path, text),
            read_options=arrow_csv.ReadOptions(
                column_names=names, skip_rows=empty, skip_rows_after_names=1, block_size=BLOCK_BYTES, use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=text.delimiter, newlines_in_values=True, invalid_row_handler=ragged),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=wanted, strings_can_be_null=False
            ),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        raise _text_badly(path, text, error) from None
    finally:
        held = weakref.ref(ragged)
        del reader, ragged
        _wait_until_gone(held)


def _wait_until_gone(held: weakref.ref[Any]) -> None:
    """Arrow's threads let go of a Python function shortly after their reader; a process that ends in between aborts."""
    until = time.monotonic() + 1.0
    while held() is not None and time.monotonic() < until:
        time.sleep(0.0005)


def _text_badly(path: str, text: Text, error: Exception) -> UsageError:
    said = str(error)
    if isinstance(error, UnicodeDecodeError) or "UTF8" in said:
        return UsageError(
            f"{path}, line {_undecodable_line(path, text)}, is not {text.encoding} text",
            allowed="one encoding in the whole file",
            next="set source.encoding (cp1252, latin-1, utf-16 ...) in the dataset YAML, or convert the file to UTF-8",
        )
    if "straddling" in said:
        return UsageError(
            f"{path} holds a row longer than {BLOCK_BYTES >> 20} MiB", allowed="shorter rows", next="look for a quote that is never closed"
        )
    if isinstance(error, pa.ArrowInvalid):
        return UsageError(f"{path} cannot be read as CSV ({said})", next="check source.delimiter and source.encoding")
    return _packed_badly(path, error)


def _packed_badly(path: str, error: Exception) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError("the file is missing", value=path)
    if isinstance(error, PermissionError):
        return UsageError("the file may not be read", value=path, next="give this user the right to read it")
    return UsageError(f"the file is damaged or cut off ({error})", value=path, next="fetch or write it again")


def _undecodable_line(path: str, text: Text) -> int:
    decoder, line = codecs.getincrementaldecoder(text.encoding)(), 1
    with open_bytes(path) as stream:
        while chunk := stream.read(1 << 20):
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].decode(text.encoding, "replace").count("\n")
    return line


def read_jsonl(path: str, text: Text, columns: list[str] | None, damaged: Damaged) -> Iterator[pa.Table]:
    """Numbers, true and false as text, as in CSV: else how a value is read would hang on the other values of its block."""
    decoder, number, rest = msgspec.json.Decoder(), 0, b""
    try:
        with open_text(path, text) as stream:
            while True:
                chunk = stream.read(BLOCK_BYTES)
                block = rest + chunk
                cut = block.rfind(b"\n") + 1 if chunk else len(block)
                lines, rest = block[:cut], block[cut:]
                if number == 0:
                    lines = lines.removeprefix(b"\xef\xbb\xbf")
                    if lines.lstrip()[:1] == b"[":
                        raise UsageError(
                            f"{path} is one JSON array", allowed="JSON lines: one object a line", next=f"jq -c '.[]' {path} > rows.jsonl"
                        )
                if lines.strip():
                    yield _json_table(_json_rows(decoder, lines, number, path, damaged), columns)
                number += lines.count(b"\n")
                if not chunk:
                    return
    except (OSError, UnicodeDecodeError) as error:
        raise _text_badly(path, text, error) from None


def _json_rows(decoder: msgspec.json.Decoder, lines: bytes, before: int, path: str, damaged: Damaged) -> list[dict[str, Any]]:
    try:
        rows = decoder.decode_lines(lines)
        if all(type(row) is dict for row in rows):
            return rows
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    rows = []
    for number, line in enumerate(lines.split(b"\n"), before + 1):
        if not line.strip():
            continue
        try:
            # Python's reader also takes NaN and Infinity, which Python's writer makes.
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise UsageError(
                f"{path}, line {number}, is not UTF-8 text", next="set source.encoding in the dataset YAML, or convert the file"
            ) from None
        except (ValueError, RecursionError) as error:
            damaged(f"line {number} is not JSON ({str(error)[:80]})")
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged(f"line {number} is not a JSON object")
    return rows


def _json_table(rows: list[dict[str, Any]], columns: list[str] | None) -> pa.Table:
    names = columns if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    return pa.table({name or f"column_{i}": _json_array([row.get(name) for row in rows]) for i, name in enumerate(names, 1)})


def _json_array(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_json_text(value) for value in values], pa.string())
    return array if pa.types.is_nested(array.type) else array.cast(pa.string())


def _json_text(value: Any) -> str | None:
    """As Arrow spells a column of such values."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(pa.scalar(value).cast(pa.string()).as_py())
    return json.dumps(value, ensure_ascii=False)


# What the key of an extension column looks like inside the base64 of a Parquet footer, at each of its three alignments.
_EXTENSION_MARKS = tuple(base64.b64encode(b"\0" * shift + b"ARROW:extension:name")[4 * (shift > 0) :][:20] for shift in (0, 1, 2))


def parquet_schema(path: str) -> pa.Schema:
    """The schema; a file with extension types is refused before Arrow opens it, since a type may run code when it is rebuilt."""
    with Path(path).open("rb") as raw:
        size = raw.seek(0, io.SEEK_END)
        raw.seek(max(size - 8, 0))
        tail = raw.read(8)
        if size < 12 or tail[4:] not in (b"PAR1", b"PARE"):
            raise UsageError("the Parquet file is cut off or is no Parquet file", value=path, next="fetch or write it again")
        if tail[4:] == b"PARE":
            raise UsageError("the Parquet file is encrypted", value=path, next="write it without encryption")
        raw.seek(max(size - 8 - int.from_bytes(tail[:4], "little"), 0))
        footer = raw.read()
    if not any(mark in footer for mark in _EXTENSION_MARKS):
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"the Parquet file is damaged ({error})", value=path, next="fetch or write it again") from None
        extended = [field.name for field in schema if isinstance(field.type, pa.BaseExtensionType)]
        if not extended:
            unique_names(path, schema.names)
            return schema
    raise UsageError(
        f"{path} has columns of an Arrow extension type, which are refused: they can carry code",
        allowed="plain Arrow types",
        next="cast them to string or number where the file is written",
    )


def read_parquet(path: str, columns: list[str] | None) -> Iterator[pa.Table]:
    """Values keep their types; names are cleaned as those of the other formats are."""
    names = parquet_schema(path).names
    clean = unique_names(path, names)
    renamed, place = dict(zip(names, clean, strict=True)), {name: i for i, name in enumerate(clean)}
    wanted = [place[name] for name in columns] if columns is not None else list(range(len(names)))
    try:
        with pq.ParquetFile(path) as file:
            rows = min(max(4_000_000 // max(len(names), 1), 1024), 65_536)
            # Selected after reading where a dot in a name would be taken for a path into a nested column.
            chosen = [names[i] for i in wanted] if not any("." in name for name in names) else None
            for batch in file.iter_batches(batch_size=rows, columns=chosen, use_threads=False):
                table = pa.Table.from_batches([batch])
                yield table.rename_columns([renamed[name] for name in table.column_names]).select([clean[i] for i in wanted])
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"the Parquet file is damaged ({error})", value=path, next="fetch or write it again") from None


def check_columns(path: str, found: list[str], expected: list[str], first: str) -> None:
    """Every file of a folder has the columns of the first one, in any order."""
    has, should = set(found), set(expected)
    if missing := [name for name in expected if name not in has]:
        raise UsageError(
            f"{path} has no column {missing[0]!r} (as {first} has)", allowed=some(found), next="add the column, or move the file"
        )
    if extra := [name for name in found if name not in should]:
        raise UsageError(
            f"{path} has a column {extra[0]!r} that {first} has not", allowed=some(expected), next="remove the column, or move the file"
        )
