"""One text file, CSV or JSON lines, as a stream of small Arrow tables; every damage is named with its place."""

from __future__ import annotations

import bisect
import codecs
import csv
import io
import itertools
import json
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from conf.errors import UsageError, some
from tables.sources import packed
from tables.sources.packed import PACKED, head, open_bytes, unreadable

Format = Literal["csv", "jsonl", "parquet"]
SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv", ".txt", ".data"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq", ".parq"), "parquet"),
}
_FOREIGN = {
    b"PK\x03\x04": "a zip or Excel file",
    b"PAR1": "a Parquet file",
    b"\x89PNG": "an image",
    b"%PDF": "a PDF",
    b"SQLi": "a SQLite file",
}
HEADER_BYTES = 2 << 20
# Present only where a source is told to mark what it cannot read: why a row is not one, null for good rows.
UNREADABLE = "_unreadable"
# Where a raw row came from: its file (relative to the source) or table, and its record's number there, counted as messages do: from 1,
# a CSV header included, JSON lines by line; null where nobody knows. Kept on bad rows alone.
ORIGIN_FILE, ORIGIN_ROW = "_file", "_row"
Damaged = Callable[[int, str], None]
Numbered = tuple[pa.Table, pa.Array]  # rows, and the record number (int64) of each


@dataclass(frozen=True)
class Text:
    """How a text file is written."""

    delimiter: str = ","
    encoding: str = "utf-8"


def format_of(path: str) -> Format:
    """By the ending of the name, else by what the file begins with."""
    name = Path(str(path))
    suffix = (name.with_suffix("") if name.suffix.lower() in PACKED else name).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    start = head(path, 4096)
    if start[:4] == b"PAR1":
        return "parquet"
    return "jsonl" if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") else "csv"


def open_text(path: str, text: Text, held: list[weakref.ref[Any]] | None = None) -> pa.NativeFile:
    stream = open_bytes(path, held)
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
        raise UsageError("the file is empty", value=str(path), allowed="a header line and at least one row")
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
    raise UsageError("the file has no header line", value=str(path), allowed="a header line and at least one row")


def read_csv(path: str, text: Text, columns: list[str] | None, damaged: Damaged) -> Iterator[Numbered]:
    """Each column as text, so that no type can differ between files or blocks; the contract casts them."""
    names, empty = csv_header(path, text)
    wanted = columns if columns is not None else names
    skipped: list[int] = []

    def ragged(row: Any) -> str:
        skipped.append(row.number)
        fields = f"{row.actual_columns} field{'s' * (row.actual_columns != 1)} instead of {row.expected_columns}"
        damaged(row.number, f"record {row.number} has {fields}")
        return "skip"

    reader, number = None, empty + 2
    held: list[weakref.ref[Any]] = [weakref.ref(ragged)]
    try:
        reader = arrow_csv.open_csv(
            open_text(path, text, held),
            read_options=arrow_csv.ReadOptions(
                column_names=names, skip_rows=empty, skip_rows_after_names=1, block_size=packed.BLOCK_BYTES, use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=text.delimiter, newlines_in_values=True, invalid_row_handler=ragged),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=wanted, strings_can_be_null=False
            ),
        )
        for batch in reader:
            numbers = numbered(number, batch.num_rows, skipped)
            number = numbers[-1].as_py() + 1 if len(numbers) else number
            del skipped[: bisect.bisect_left(skipped, number)]
            yield pa.Table.from_batches([batch]), numbers
    except UsageError as error:
        raise error.with_traceback(None) from None  # its frames would hold what is waited for below
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        raise _text_badly(path, text, error) from None
    finally:
        del reader, ragged
        for each in held:
            _wait_until_gone(each)


def numbered(first: int, count: int, skipped: list[int]) -> pa.Array:
    """The numbers of `count` records from `first` on, without those `skipped`."""
    if not skipped:
        return pa.array(np.arange(first, first + count))
    candidates = np.arange(first, first + count + len(skipped))
    return pa.array(candidates[~np.isin(candidates, skipped)][:count])


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
        return _too_long(path)
    if isinstance(error, pa.ArrowInvalid):
        return UsageError(f"{path} cannot be read as CSV ({said})", next="check source.delimiter and source.encoding")
    return unreadable(path, error)


def _too_long(path: str) -> UsageError:
    return UsageError(
        f"{path} holds a row longer than {packed.BLOCK_BYTES >> 20} MiB",
        allowed="shorter rows",
        next="look for a quote that is never closed",
    )


def _undecodable_line(path: str, text: Text) -> int:
    decoder, line = codecs.getincrementaldecoder(text.encoding)(), 1
    with open_bytes(path) as stream:
        while chunk := stream.read(1 << 20):
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].decode(text.encoding, "replace").count("\n")
    return line


def read_jsonl(path: str, text: Text, columns: list[str] | None, damaged: Damaged) -> Iterator[Numbered]:
    """Numbers, true and false as text, as in CSV: else how a value is read would hang on the other values of its block."""
    decoder, number, rest = msgspec.json.Decoder(), 0, b""
    try:
        with open_text(path, text) as stream:
            while True:
                chunk = stream.read(packed.BLOCK_BYTES)
                block = rest + chunk
                cut = block.rfind(b"\n") + 1 if chunk else len(block)
                lines, rest = block[:cut], block[cut:]
                if len(rest) > packed.BLOCK_BYTES:
                    raise _too_long(path)
                if number == 0:
                    lines = lines.removeprefix(b"\xef\xbb\xbf")
                    if lines.lstrip()[:1] == b"[":
                        raise UsageError(
                            f"{path} is one JSON array", allowed="JSON lines: one object a line", next=f"jq -c '.[]' {path} > rows.jsonl"
                        )
                if lines.strip():
                    rows, numbers = _json_rows(decoder, lines, number, path, damaged)
                    yield _json_table(rows, columns), numbers
                number += lines.count(b"\n")
                if not chunk:
                    return
    except (OSError, UnicodeDecodeError) as error:
        raise _text_badly(path, text, error) from None


def _json_rows(
    decoder: msgspec.json.Decoder, lines: bytes, before: int, path: str, damaged: Damaged
) -> tuple[list[dict[str, Any]], pa.Array]:
    try:
        rows = decoder.decode_lines(lines)
        if all(type(row) is dict for row in rows):
            return rows, _line_numbers(lines, before, len(rows))
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    rows, numbers = [], []
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
            damaged(number, f"line {number} is not JSON ({str(error)[:80]})")
            continue
        if isinstance(row, dict):
            rows.append(row)
            numbers.append(number)
        else:
            damaged(number, f"line {number} is not a JSON object")
    return rows, pa.array(numbers, pa.int64())


def _line_numbers(lines: bytes, before: int, rows: int) -> pa.Array:
    if rows == lines.count(b"\n") + (not lines.endswith(b"\n")):
        return pa.array(np.arange(before + 1, before + 1 + rows))
    return pa.array([number for number, line in enumerate(lines.split(b"\n"), before + 1) if line.strip()], pa.int64())


def _json_table(rows: list[dict[str, Any]], columns: list[str] | None) -> pa.Table:
    names = columns if columns is not None else list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    return pa.table({name or f"column_{i}": as_text([row.get(name) for row in rows]) for i, name in enumerate(names, 1)})


def as_text(values: list[Any]) -> pa.Array:
    """Values of a language that knows few types, each spelled by itself, whatever stands beside it; lists and objects stay."""
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array(_spelled(values), pa.string())
    # Arrow makes doubles of whole numbers and truth values beside them: rounded beyond 2^53, and spelled as doubles are.
    if pa.types.is_floating(array.type) and {int, bool} & set(map(type, values)):
        return pa.array(_spelled(values), pa.string())
    return array if pa.types.is_nested(array.type) else array.cast(pa.string())


def _spelled(values: list[Any]) -> list[str | None]:
    # Arrow's spelling of a float is another than Python's (2.0 is "2", as it is where a file is CSV).
    floats = iter(pa.array([value for value in values if type(value) is float], pa.float64()).cast(pa.string()).to_pylist())
    return [next(floats) if type(value) is float else _json_text(value) for value in values]


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
