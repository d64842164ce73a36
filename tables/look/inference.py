"""What one raw column holds: its type, its spellings of null, how its numbers and dates are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tables.casting import ISO8601, ColumnType, cast, parse_times
from tables.sketches import as_floats
from tables.sources.plain import ungrouped

# A null only where the rest of the column is numbers or dates; elsewhere each of these may well be a category.
_WORDS = """? ?? - -- --- . .. * ** x na n.a. n/a nan nil none null (null) (none) <null> <na> #n/a #na #value! #div/0! #ref! missing unknown
unk undefined empty blank void n\\a \\n not_available unavailable tbd"""
NULL_WORDS = frozenset(_WORDS.split()) | {"not available", "no data", "not known", "not applicable"}
_NULL_WORDS = pa.array(sorted(NULL_WORDS))
# A column stays a number, or a date, when at most this share of its values cannot be read as one.
MAX_UNREADABLE = 0.02
MIN_KNOWN = 0.05
_PAIRS = ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"})
_DATES = (
    (r"\d{4}-\d{1,2}-\d{1,2}", "%Y-%m-%d"),
    (r"\d{4}/\d{1,2}/\d{1,2}", "%Y/%m/%d"),
    (r"\d{4}\.\d{1,2}\.\d{1,2}", "%Y.%m.%d"),
    *(
        (rf"\d{{1,2}}{re.escape(s)}\d{{1,2}}{re.escape(s)}\d{{4}}", f"{a}{s}{b}{s}%Y")
        for s in "/.-"
        for a, b in (("%m", "%d"), ("%d", "%m"))
    ),
    *(
        (rf"\d{{1,2}}{re.escape(s)}\d{{1,2}}{re.escape(s)}\d{{2}}", f"{a}{s}{b}{s}%y")
        for s in "/.-"
        for a, b in (("%m", "%d"), ("%d", "%m"))
    ),
    *((rf"\d{{1,2}}{s}[A-Za-z]{{3,9}}{s}\d{{4}}", f"%d{s}%b{s}%Y") for s in " -"),
    *((rf"\d{{1,2}}{s}[A-Za-z]{{3}}{s}\d{{2}}", f"%d{s}%b{s}%y") for s in " -"),
    (r"[A-Za-z]{3,9} \d{1,2}, \d{4}", "%b %d, %Y"),
)
_CLOCKS = (("", ""), (r" \d{1,2}:\d{2}", " %H:%M"), (r" \d{1,2}:\d{2}:\d{2}", " %H:%M:%S"), (r" \d{1,2}:\d{2} ?[AaPp][Mm]", " %I:%M %p"))
_FORMATS = tuple((f"^{d}{c}$", f"{date}{clock}") for (d, date), (c, clock) in product(_DATES, _CLOCKS))
_ISO_CLOCK = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}"
_DATE_LIKE = r"^\d{1,4}[-/. ]|^[A-Za-z]{3,9} \d{1,2}, \d{4}"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`values`: float64 [rows], NaN for null, of numbers, booleans and dates (days or seconds); int64 codes, -1 for null, of text.

    `spelled` are the null spellings found beyond the usual ones, `bad` counts the values that cannot be read and go to the quarantine.
    """

    type: ColumnType
    values: NDArray[Any]
    distinct: int
    nulls: int
    levels: list[str]
    spelled: tuple[str, ...] = ()
    bad: int = 0
    bad_rows: NDArray[np.bool_] | None = None
    infinite: int = 0
    style: str = ""
    formats: tuple[str, ...] = ()
    ambiguous: int = 0
    mixed: float = 0.0

    @property
    def is_text(self) -> bool:
        return self.type == "string"

    @property
    def is_time(self) -> bool:
        return self.type in ("date", "timestamp")

    @property
    def known(self) -> int:
        return len(self.values) - self.nulls


def read_column(column: pa.ChunkedArray, *, hints_date: bool = False, decimal_comma: bool = False, as_text: bool = False) -> Reading | None:
    """None for a column whose type a contract cannot hold (nested, or bytes that are no text). `as_text` looks for nothing but text."""
    array = column.combine_chunks()
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    if pa.types.is_integer(array.type) and _too_long(array):
        array, as_text = array.cast(pa.string()), True
    if pa.types.is_string(array.type):
        return _read_text(array, hints_date, decimal_comma, as_text)
    if pa.types.is_nested(array.type) or pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return None
    return _read_typed(array)


def _read_typed(array: pa.Array) -> Reading:
    kind: ColumnType = "double"
    if pa.types.is_boolean(array.type):
        kind = "bool"
    elif pa.types.is_integer(array.type):
        kind = "int64"
    elif pa.types.is_date(array.type):
        kind = "date"
    elif pa.types.is_timestamp(array.type):
        kind = "timestamp"
    return _numbers(kind, as_floats(array))


def _too_long(array: pa.Array) -> bool:
    """Whole numbers that a float cannot tell from their neighbours are ids."""
    bounds = pc.min_max(array).as_py()
    return bounds["max"] is not None and max(bounds["max"], -bounds["min"]) > 2**53


def _numbers(kind: ColumnType, values: NDArray[np.float64], **more: Any) -> Reading:
    missing = np.isnan(values)
    return Reading(
        type=kind,
        values=values,
        distinct=len(np.unique(values[~missing])),
        nulls=int(missing.sum()),
        levels=[],
        infinite=int(np.isinf(values).sum()),
        **more,
    )


def _read_text(array: pa.Array, hints_date: bool, decimal_comma: bool, as_text: bool) -> Reading:
    coded = array.dictionary_encode()
    levels = coded.dictionary
    codes = np.asarray(coded.indices.fill_null(-1), np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(levels))
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(levels))
    word = np.asarray(pc.is_in(lower, value_set=_NULL_WORDS), bool)
    plain = levels.filter(pa.array(~word))
    weights = counts[~word]
    found = None
    if not as_text and len(plain) and weights.sum() >= MIN_KNOWN * counts.sum():
        found = _as_bool(lower) or _as_number(plain, weights, decimal_comma, hints_date) or _as_date(plain, weights, hints_date)
    if found is None:
        return Reading(
            type="string",
            values=codes,
            distinct=len(levels),
            nulls=int((codes < 0).sum()),
            levels=levels.to_pylist(),
            mixed=_numeric_share(plain, weights),
        )
    by_level = np.full(len(levels) + 1, np.nan)  # the last one is for null
    by_level[:-1][~word] = found.pop("values")
    bad_level = np.append(np.isnan(by_level[:-1]) & ~word, False)
    bad_rows = bad_level[codes] if bad_level.any() else None
    spelled = tuple(levels.filter(pa.array(word)).to_pylist())
    reading = _numbers(found.pop("kind"), by_level[codes], spelled=spelled, bad_rows=bad_rows, **found)
    return reading if bad_rows is None else replace(reading, bad=int(bad_rows.sum()), nulls=reading.nulls - int(bad_rows.sum()))


def _as_bool(lower: pa.Array) -> dict[str, Any] | None:
    if len(lower) < 2 or len(lower) > 12:
        return None
    words = lower.to_pylist()
    if not any(set(words) == pair for pair in _PAIRS):
        return None
    return {"kind": "bool", "values": np.array([word in ("true", "yes", "t", "y") for word in words], float)}


def _readable_enough(good: NDArray[np.bool_], weights: NDArray[np.int64]) -> bool:
    return bool(good.any()) and weights[~good].sum() <= MAX_UNREADABLE * weights.sum()


def _as_number(text: pa.Array, weights: NDArray[np.int64], decimal_comma: bool, hints_date: bool) -> dict[str, Any] | None:
    if len(text) > 50 and not _sample_matches(text, r"^\s*[-+$€£¥₹(]*\s*[\d.,]"):
        return None
    for style in ("", *(("1.234,5", "1,234.5") if decimal_comma else ("1,234.5", "1.234,5"))):
        if style == "1.234,5" and not _any_matches(text, r",\d+\D*$"):
            continue
        plain = ungrouped(text, style) if style else text
        numbers, _ = cast(plain, "double")
        good = np.asarray(numbers.is_valid(), bool)
        if not _readable_enough(good, weights):
            continue
        kept = plain.filter(pa.array(good))
        if _any_matches(kept, r"^[+-]?0\d+$|^[+-]?\d{16,}$|^\+\d{7,}$"):
            return None  # a code such as 00501, an id that a float cannot tell from its neighbour, or a telephone number
        if hints_date and _as_compact_date(kept):
            return None
        kind = "double" if _any_matches(kept, r"[.eE]|[iI][nN][fF]") else "int64"
        return {"kind": kind, "values": np.asarray(numbers.fill_null(np.nan), float), "style": style}
    return None


def _sample_matches(text: pa.Array, pattern: str) -> bool:
    """Whether at least half of fifty values, taken from all over, look like `pattern`: a cheap first look."""
    sample = text.take(pa.array(np.linspace(0, len(text) - 1, 50).astype(np.int64)))
    return bool(pc.sum(pc.match_substring_regex(sample, pattern)).as_py() * 2 >= len(sample))


def _any_matches(text: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(text, pattern)).as_py())


def _numeric_share(text: pa.Array, weights: NDArray[np.int64]) -> float:
    if not len(text) or len(text) > 100_000:
        return 0.0
    good = np.asarray(cast(text, "double")[0].is_valid(), bool)
    return float(weights[good].sum() / max(weights.sum(), 1))


def _as_compact_date(text: pa.Array) -> bool:
    whole = bool(pc.all(pc.match_substring_regex(text, r"^(19|20)\d{6}$")).as_py())
    return whole and not parse_times(text, "%Y%m%d").null_count


def _as_date(text: pa.Array, weights: NDArray[np.int64], hints_date: bool) -> dict[str, Any] | None:
    """Formats in the order of how many values they read; among day/month twins that order is the only evidence there is."""
    if hints_date and _as_compact_date(text):
        return {"kind": "date", "values": _days(parse_times(text, "%Y%m%d")), "formats": ("%Y%m%d",)}
    if not _sample_matches(text, _DATE_LIKE) if len(text) > 50 else not _any_matches(text, _DATE_LIKE):
        return None
    parsed = {pattern: times for shape, pattern in _FORMATS if len(text) and (times := _shaped(text, shape, pattern)) is not None}
    if _any_matches(text, _ISO_CLOCK):
        parsed[ISO8601] = parse_times(text, ISO8601)
    reads = {pattern: int(weights[np.asarray(times.is_valid(), bool)].sum()) for pattern, times in parsed.items()}
    order = sorted(parsed, key=lambda pattern: (-reads[pattern], _preference(pattern)))
    merged, formats = pa.nulls(len(text), pa.timestamp("us")), []
    for pattern in order:
        if pc.any(pc.and_(parsed[pattern].is_valid(), merged.is_null())).as_py():
            merged = pc.coalesce(merged, parsed[pattern])
            formats.append(pattern)
    if not _readable_enough(np.asarray(merged.is_valid(), bool), weights):
        return None
    kind: Literal["date", "timestamp"] = "timestamp" if any("%H" in p or "%I" in p or p == ISO8601 for p in formats) else "date"
    values = as_floats(merged) if kind == "timestamp" else _days(merged)
    return {"kind": kind, "values": values, "formats": tuple(formats), "ambiguous": _ambiguous(parsed, formats, weights)}


def _days(times: pa.Array) -> NDArray[np.float64]:
    return np.floor(as_floats(times) / 86_400.0)


def _shaped(text: pa.Array, shape: str, pattern: str) -> pa.Array | None:
    fits = pc.match_substring_regex(text, shape)
    if not pc.any(fits).as_py():
        return None
    times = parse_times(pc.if_else(fits, text, None), pattern)
    return times if times.null_count < len(times) else None


def _preference(pattern: str) -> int:
    """When nothing tells day from month: slashes are American, dots and dashes are not."""
    if pattern == ISO8601:
        return -1
    return 0 if pattern.startswith("%m/") or (pattern.startswith("%d") and "/" not in pattern) else 1


def _twin(pattern: str) -> str:
    for a, b in (("%m", "%d"), ("%d", "%m")):
        for s in "/.-":
            if pattern.startswith(f"{a}{s}{b}{s}"):
                return pattern.replace(f"{a}{s}{b}", f"{b}{s}{a}", 1)
    return ""


def _ambiguous(parsed: dict[str, pa.Array], formats: list[str], weights: NDArray[np.int64]) -> int:
    """Rows that a format and its day/month twin both read, differently, where the column does not decide between them."""
    count = 0
    for pattern in formats:
        other = parsed.get(_twin(pattern))
        if other is None or (_twin(pattern) in formats and formats.index(_twin(pattern)) < formats.index(pattern)):
            continue
        mine = parsed[pattern]
        decided = bool(pc.any(pc.and_(mine.is_valid(), other.is_null())).as_py()) and _twin(pattern) not in formats
        if not decided:
            count += int(weights[np.asarray(pc.fill_null(pc.not_equal(mine, other), False), bool)].sum())
    return count
