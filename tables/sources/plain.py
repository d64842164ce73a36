"""Columns as plain Arrow types and text as values: what a table's writer chose must not decide how its rows are learned from."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tables.sources.formats import ORIGIN_FILE, ORIGIN_ROW


def plain(table: pa.Table) -> pa.Table:
    """Dictionaries become their values, decimals and durations (seconds) doubles, moments microseconds, clock times and bytes text."""
    return pa.table(dict(zip(table.column_names, map(plain_column, table.columns), strict=True))) if table.num_columns else table


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
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
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            return column
    return column


def _is_text(kind: pa.DataType) -> bool:
    # Old writers store text as binary without saying so.
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in texts)


def text_column(column: pa.ChunkedArray, nulls: Sequence[str], style: str | None, trim: bool) -> pa.ChunkedArray:
    """A text column whose values among `nulls` are null, and its numbers, written in `style`, are plain ones."""
    if trim:
        column = pc.utf8_trim_whitespace(column)
    missing = pc.is_in(column, value_set=pa.array(nulls, pa.string()))
    if pc.any(missing).as_py():
        column = pc.if_else(missing, pa.scalar(None, pa.string()), column)
    return ungrouped(column, style) if style else column


def ungrouped(text: pa.ChunkedArray, style: str) -> pa.ChunkedArray:
    """Numbers in `style`, with or without a currency or percent sign, as plain numbers; other text as it is."""
    bare = pc.replace_substring_regex(text, r"[$€£¥₹%'\s\x{a0}\x{202f}]", "")
    group, point = (",", r"\.") if style == "1,234.5" else (r"\.", ",")
    fits = pc.match_substring_regex(bare, rf"^[+-]?(\d{{1,3}}({group}\d{{3}})+|\d+)({point}\d+)?$")
    plain = pc.replace_substring(bare, group.removeprefix("\\"), "")
    return pc.if_else(fits, plain if point == r"\." else pc.replace_substring(plain, ",", "."), text)


def with_origin(table: pa.Table, name: str, numbers: pa.Array | None) -> pa.Table:
    """The table with where its rows came from; one that has such a column of its own is left alone."""
    if {ORIGIN_FILE, ORIGIN_ROW} & set(table.column_names):
        return table
    rows = numbers if numbers is not None else pa.nulls(table.num_rows, pa.int64())
    return table.append_column(ORIGIN_FILE, pa.repeat(pa.scalar(name, pa.string()), table.num_rows)).append_column(ORIGIN_ROW, rows)
