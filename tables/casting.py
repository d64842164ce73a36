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
_DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")


def true_or_false(mask: pa.Array) -> pa.Array:
    return pc.fill_null(mask, False)


def cast(array: pa.Array, kind: ColumnType, formats: list[str] | None = None) -> tuple[pa.Array, pa.Array]:
    """`array` as the contract's type, and a mask of the values that could not be read (they become null)."""
    target = ARROW[kind]
    if isinstance(array.type, pa.BaseExtensionType):
        raise UsageError("extension types are refused: they can carry code", value=str(array.type), allowed="plain Arrow types")
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    none = pa.array([False]).take(pa.array([0] * len(array), pa.int32())) if len(array) else pa.array([], pa.bool_())
    if array.type == target:
        return array, none
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), target), none
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _parse(array, kind, formats, target)
    try:
        return pc.cast(array, target), none
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    if pa.types.is_floating(array.type) and target == pa.int64():
        whole = true_or_false(pc.and_(pc.equal(array, pc.floor(array)), pc.less(pc.abs(array), 2.0**53)))
        return pc.cast(pc.if_else(whole, array, None), target), pc.and_(pc.is_valid(array), pc.invert(whole))
    if pa.types.is_nested(array.type):
        raise UsageError("nested columns are not supported", value=str(array.type), allowed="flat columns", next="flatten it in the source")
    return _parse(pc.cast(array, pa.string()), kind, formats, target)


def _parse(text: pa.Array, kind: ColumnType, formats: list[str] | None, target: pa.DataType) -> tuple[pa.Array, pa.Array]:
    text = pc.cast(text, pa.string())
    if kind == "string":
        return text, pc.fill_null(pc.not_equal(text, text), False)
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
        for pattern in formats or _DATE_FORMATS:
            parsed = pc.coalesce(parsed, pc.strptime(text, format=pattern, unit="us", error_is_null=True))
        fits = pc.is_valid(parsed)
        parsed = pc.cast(pc.floor_temporal(parsed, unit="day"), target) if kind == "date" else pc.assume_timezone(parsed, "UTC")
    return parsed, pc.and_(pc.is_valid(text), pc.invert(fits))
