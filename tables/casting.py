"""Values as the type a contract promises; a value that cannot be read is marked, never guessed."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UsageError

ColumnType = Literal["string", "int64", "double", "bool", "date", "timestamp"]

ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
_INTEGER = r"^[+-]?\d{1,18}(\.0*)?$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity)$"
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
# Named among the strptime patterns of a contract: it also reads fractions of a second and offsets from UTC, which strptime cannot.
ISO8601 = "ISO8601"
_ISO = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})(?:[T ](?P<minute>\d{2}:\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r" ?(?:Z|(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})|(?P<hour>[+-]\d{2}))?)?$"
)
# Only patterns that no other reading contradicts: 03/04/2020 needs a contract that says which is the month.
_DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", ISO8601, "%Y/%m/%d", "%d.%m.%Y")


def true_or_false(mask: pa.Array) -> pa.Array:
    return pc.fill_null(mask, False)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column in one piece; unlike `combine_chunks` it copies nothing where there is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def all_false(rows: int) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(bytes(rows // 8 + 1))])


def cast(array: pa.Array, kind: ColumnType, formats: list[str] | None = None) -> tuple[pa.Array, pa.Array]:
    """`array` as the contract's type, and a mask of the values that could not be read (they become null)."""
    target = ARROW[kind]
    if isinstance(array.type, pa.BaseExtensionType):
        raise UsageError("extension types are refused: they can carry code", value=str(array.type), allowed="plain Arrow types")
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    none = all_false(len(array))
    if pa.types.is_floating(array.type) and pc.any(pc.is_nan(array)).as_py():
        # A NaN is how pandas and Spark write a missing number; left alone it would pass `nullable: false`.
        array = pc.if_else(pc.is_nan(array), None, array)
    if array.type == target:
        return (_no_empty_text(array) if kind == "string" else array), none
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), target), none
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _parse(array, kind, formats, target)
    if kind == "int64" and (pa.types.is_floating(array.type) or array.type == pa.uint64()):
        return _whole(array)
    # Arrow calls every number but 0 true, and counts a whole number as microseconds or days since 1970: both would be guesses.
    if kind in ("string", "int64", "double") or pa.types.is_temporal(array.type):
        try:
            return pc.cast(array, target), none
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
    if pa.types.is_nested(array.type):
        raise UsageError("nested columns are not supported", value=str(array.type), allowed="flat columns", next="flatten it in the source")
    try:
        text = pc.cast(array, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"a column cannot be read as text ({error})", value=str(array.type), allowed="plain Arrow types") from None
    return _parse(text, kind, formats, target)


def _whole(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Value by value: a cast of the whole array would let one value decide whether the others can be read."""
    if pa.types.is_floating(array.type):
        fits = true_or_false(pc.and_(pc.equal(array, pc.floor(array)), pc.less(pc.abs(array), 2.0**53)))
    else:
        fits = true_or_false(pc.less(array, pa.scalar(2**63, pa.uint64())))
    return pc.cast(pc.if_else(fits, array, None), pa.int64()), pc.and_(pc.is_valid(array), pc.invert(fits))


def _no_empty_text(text: pa.Array) -> pa.Array:
    """A file of text cannot tell an empty value from a missing one, so nothing else may."""
    empty = true_or_false(pc.equal(text, ""))
    return pc.if_else(empty, None, text) if pc.any(empty).as_py() else text


def _parse(text: pa.Array, kind: ColumnType, formats: list[str] | None, target: pa.DataType) -> tuple[pa.Array, pa.Array]:
    text = pc.cast(text, pa.string())
    if kind == "string":
        return _no_empty_text(text), all_false(len(text))
    if kind in ("int64", "double") and (quick := _plain_numbers(_no_empty_text(text), target)) is not None:
        return quick, all_false(len(text))
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(true_or_false(pc.equal(text, "")), None, text)
    if kind == "int64":
        fits = true_or_false(pc.match_substring_regex(text, _INTEGER))
        parsed = pc.cast(pc.replace_substring_regex(pc.if_else(fits, text, None), r"^\+|\.0*$", ""), target)
    elif kind == "double":
        fits = true_or_false(pc.match_substring_regex(text, _NUMBER))
        parsed = pc.cast(pc.replace_substring_regex(pc.if_else(fits, text, None), r"^\+", ""), target)
    elif kind == "bool":
        lower = pc.utf8_lower(text)
        true, false = pc.is_in(lower, value_set=pa.array(_TRUE)), pc.is_in(lower, value_set=pa.array(_FALSE))
        fits = pc.or_(true, false)
        parsed = pc.if_else(fits, true, None)
    else:
        parsed = pa.nulls(len(text), pa.timestamp("us"))
        # Machines write ISO 8601, whatever people write, and no other pattern reads it differently.
        for pattern in (*formats, ISO8601) if formats else _DATE_FORMATS:
            if parsed.null_count == text.null_count:
                break
            parsed = pc.coalesce(parsed, parse_times(text, pattern))
        fits = pc.is_valid(parsed)
        parsed = pc.cast(pc.floor_temporal(parsed, unit="day"), target) if kind == "date" else pc.assume_timezone(parsed, "UTC")
    return parsed, pc.and_(pc.is_valid(text), pc.invert(fits))


def _plain_numbers(text: pa.Array, target: pa.DataType) -> pa.Array | None:
    """Numbers by Arrow's own cast, several times faster than by pattern; None where it fails or takes more than the patterns do."""
    # Arrow also reads 0x1F, nan, and whole numbers with any number of zeros before them.
    too_long = target == pa.int64() and (pc.max(pc.binary_length(text)).as_py() or 0) > 18
    if too_long or pc.any(pc.match_substring_regex(text, "[xXnN]")).as_py():
        return None
    try:
        return pc.cast(text, target)
    except pa.ArrowInvalid:
        return None


def parse_times(text: pa.Array, pattern: str) -> pa.Array:
    """timestamp[us] of each text that is written in `pattern` (strptime, or ISO8601), null for the others."""
    if pattern == ISO8601:
        return _parse_iso(text)
    parsed = pc.cast(pc.strptime(text, format=pattern, unit="us", error_is_null=True), pa.timestamp("us"), safe=False)
    # Arrow reads February 30 as March 2, and "21" as the year 21: such a date is not one.
    near = true_or_false(pc.less_equal(pc.day(parsed), 3))
    wrong = true_or_false(pc.less(pc.year(parsed), 1000))
    if pc.any(near).as_py():
        again = pc.strftime(pc.cast(parsed.filter(near), pa.timestamp("s"), safe=False), format=pattern)
        moved = pc.not_equal(_unpadded(again), _unpadded(text.filter(near)))
        wrong = pc.or_(wrong, pc.replace_with_mask(near, near, true_or_false(moved)))
    return pc.if_else(wrong, None, parsed)


def _unpadded(text: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_lower(text), r"\b0+(\d)", r"\1")


def _parse_iso(text: pa.Array) -> pa.Array:
    parts = pc.extract_regex(text, _ISO)

    def part(name: str, missing: str) -> pa.Array:
        found = pc.struct_field(parts, name)
        return pc.if_else(pc.equal(found, ""), missing, found)

    clock = pc.binary_join_element_wise(part("minute", "00:00"), part("second", "00"), ":")
    stamp = pc.binary_join_element_wise(part("day", ""), clock, " ")
    base = pc.cast(parse_times(stamp, "%Y-%m-%d %H:%M:%S"), pa.int64())
    fraction = pc.cast(pc.utf8_slice_codeunits(pc.utf8_rpad(part("fraction", "0"), 6, "0"), 0, 6), pa.int64())
    signed = pc.cast(pc.replace_substring(pc.binary_join_element_wise(part("sign", "+"), part("hours", "00"), ""), "+", ""), pa.int64())
    whole = pc.cast(pc.replace_substring(part("hour", "00"), "+", ""), pa.int64())
    minutes = pc.cast(part("minutes", "00"), pa.int64())
    minutes = pc.if_else(pc.equal(part("sign", "+"), "-"), pc.negate(minutes), minutes)
    offset = pc.add(pc.multiply(pc.add(signed, whole), 3600), pc.multiply(minutes, 60))
    return pc.cast(pc.subtract(pc.add(base, fraction), pc.multiply(offset, 1_000_000)), pa.timestamp("us"))
