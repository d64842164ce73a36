"""How the text files of a source are written: encoding and delimiter, found by looking."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable
from pathlib import Path

from conf.errors import UsageError
from tables.sources.formats import HEADER_BYTES
from tables.sources.packed import head, open_bytes

DELIMITERS = ",;\t|"
SCANNED_BYTES = 256 << 20
RECORDS = 200


def find_encoding(paths: Iterable[str]) -> str:
    """One encoding for all files; plain ASCII fits each. Raises UsageError when two files disagree."""
    found: dict[str, str] = {}
    for path in paths:
        found.setdefault(_encoding(path), path)
    found.pop("ascii", None)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise UsageError(
            "the files have different encodings",
            value=f"{Path(first).name}: {one}, {Path(second).name}: {other}",
            allowed="one encoding",
            next=f"iconv -f {one} -t {other} {first}",
        )
    return next(iter(found), "utf-8")


def _encoding(path: str) -> str:
    start = head(path, 65_536)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Latin letters in UTF-16 are every second byte NUL.
    for name, zeros, letters in (("utf-16-le", start[1:2000:2], start[0:2000:2]), ("utf-16-be", start[0:2000:2], start[1:2000:2])):
        if len(zeros) > 4 and zeros.count(0) > 0.7 * len(zeros) and letters.count(0) < 0.1 * len(letters):
            return name
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8"
    return _utf8_or_older(path)


def _utf8_or_older(path: str) -> str:
    decoder, ascii_only, read = codecs.getincrementaldecoder("utf-8")(), True, 0
    with open_bytes(path) as stream:
        while read < SCANNED_BYTES:
            chunk = stream.read(1 << 20)
            read += len(chunk)
            ascii_only = ascii_only and chunk.isascii()
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                # These five bytes have no meaning in Windows-1252; every byte has one in Latin-1.
                return "latin-1" if any(byte in chunk for byte in b"\x81\x8d\x8f\x90\x9d") else "cp1252"
            if not chunk:
                break
    return "ascii" if ascii_only else "utf-8"


def find_delimiter(path: str, encoding: str) -> str:
    """The one that cuts most of the first records into as many fields as the header has; a comma when none cuts at all."""
    start = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head(path, HEADER_BYTES))
    order = "\t,;|" if ".tsv" in path.lower() or ".tab" in path.lower() else "|,;\t" if ".psv" in path.lower() else DELIMITERS
    return max(order, key=lambda delimiter: _fit(start, delimiter))


def _fit(start: str, delimiter: str) -> tuple[float, int]:
    csv.field_size_limit(HEADER_BYTES * 2)
    reader = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
    try:
        records = [record for record, _ in zip(reader, range(RECORDS), strict=False) if record]
    except csv.Error:
        return 0.0, 0
    if not records or len(records[0]) < 2:
        return 0.0, 0
    # The last record may be cut off in the middle.
    body = records[1:-1] or records[1:]
    return sum(len(record) == len(records[0]) for record in body) / max(len(body), 1), len(records[0])
