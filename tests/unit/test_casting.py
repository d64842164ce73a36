"""A value is read as its contract's type, or marked: never guessed."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import UsageError
from tables.casting import ARROW, ColumnType, cast
from tables.rows import TableDigest

UTC = dt.UTC


def read(array: pa.Array, kind: ColumnType, formats: list[str] | None = None) -> tuple[list[object], list[bool]]:
    values, unreadable = cast(array, kind, formats)
    assert values.type == ARROW[kind]
    assert values.filter(unreadable).null_count == len(values.filter(unreadable)), "an unreadable value must be null"
    return values.to_pylist(), unreadable.to_pylist()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int64", " 42 ", 42),
        ("int64", "+7", 7),
        ("int64", "1.00", 1),
        ("int64", "-0", 0),
        ("int64", "007", 7),
        ("double", "-.5", -0.5),
        ("double", "1.", 1.0),
        ("double", "+2.5e3", 2500.0),
        ("double", "-Infinity", float("-inf")),
        ("bool", "Yes", True),
        ("bool", "0.0", False),
        ("string", " kept ", " kept "),
        ("date", "2020-02-29", dt.date(2020, 2, 29)),
        ("date", "31.12.2019", dt.date(2019, 12, 31)),
        ("date", "2020-02-29T23:59:59Z", dt.date(2020, 2, 29)),
        ("timestamp", "2020-01-01 10:00", dt.datetime(2020, 1, 1, 10, tzinfo=UTC)),
        ("timestamp", "2020-01-01T10:00:00.25+02:00", dt.datetime(2020, 1, 1, 8, 0, 0, 250_000, tzinfo=UTC)),
        ("timestamp", "2020-01-01T10:00:00-0530", dt.datetime(2020, 1, 1, 15, 30, tzinfo=UTC)),
    ],
)
def test_text_is_read_as_what_it_says(kind: ColumnType, text: str, value: object) -> None:
    assert read(pa.array([text]), kind) == ([value], [False])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int64", "1.5"),
        ("int64", "1e3"),
        ("int64", "9999999999999999999"),
        ("int64", "0x10"),
        ("double", "1_000"),
        ("double", "1,5"),
        ("double", "nan"),
        ("bool", "maybe"),
        ("bool", "2"),
        ("date", "2020-02-30"),
        ("date", "0021-01-01"),
        ("date", "03/04/2020"),
        ("timestamp", "2020-01-01T25:00:00Z"),
        ("timestamp", "2020-13-01"),
        ("timestamp", "yesterday"),
    ],
)
def test_text_that_cannot_be_read_is_marked(kind: ColumnType, text: str) -> None:
    assert read(pa.array([text, None, ""]), kind) == ([None, None, None], [True, False, False])


def test_formats_of_the_contract_say_which_is_the_month() -> None:
    text = pa.array(["03/04/2020", "13/04/2020"])
    assert read(text, "date", ["%d/%m/%Y"]) == ([dt.date(2020, 4, 3), dt.date(2020, 4, 13)], [False, False])
    assert read(text, "date", ["%m/%d/%Y"]) == ([dt.date(2020, 3, 4), None], [False, True])


@pytest.mark.parametrize(
    ("array", "kind", "values", "marks"),
    [
        (pa.array([0, 1, 2]), "bool", [False, True, None], [False, False, True]),
        (pa.array([0.0, 1.0, 0.5]), "bool", [False, True, None], [False, False, True]),
        (pa.array([20200101]), "timestamp", [None], [True]),
        (pa.array([20200101], pa.int32()), "date", [None], [True]),
        (pa.array([1.0, 2.5, 1e18, float("inf")]), "int64", [1, None, None, None], [False, True, True, True]),
        (pa.array([2**64 - 1, 3], pa.uint64()), "int64", [None, 3], [True, False]),
        (pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")]), "int64", [None, 2], [True, False]),
        (pa.array([b"5", b"x"]), "int64", [5, None], [False, True]),
        (pa.array(["5", "x"], pa.string_view()), "int64", [5, None], [False, True]),
        (pa.array([True, None]), "string", ["true", None], [False, False]),
        (pa.array([1.0, 2.5]), "string", ["1", "2.5"], [False, False]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "string", ["a", "b", "a"], [False] * 3),
    ],
)
def test_other_types_are_read_without_guessing(array: pa.Array, kind: ColumnType, values: list[object], marks: list[bool]) -> None:
    assert read(array, kind) == (values, marks)


def test_compact_dates_in_a_number_column_are_read_by_their_format() -> None:
    assert read(pa.array([20200229, 20200230]), "date", ["%Y%m%d"]) == ([dt.date(2020, 2, 29), None], [False, True])


def test_finer_times_lose_nanoseconds_only_and_zones_become_utc() -> None:
    fine = pa.array([1_577_836_800_123_456_789], pa.timestamp("ns", "America/New_York"))
    assert read(fine, "timestamp") == ([dt.datetime(2020, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)], [False])


def test_nan_is_a_missing_number() -> None:
    for width in (np.float16, np.float32, np.float64):
        assert read(pa.array(np.array([1.5, np.nan], width)), "double") == ([1.5, None], [False, False])


def test_columns_that_no_value_can_come_from_are_refused() -> None:
    with pytest.raises(UsageError, match="nested"):
        cast(pa.array([[1]]), "int64")
    with pytest.raises(UsageError, match="cannot be read as text"):
        cast(pa.array([b"\xff"]), "string")
    with pytest.raises(UsageError, match="can carry code"):
        cast(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))), "string")


@given(st.lists(st.none() | st.integers(-(10**18) + 1, 10**18 - 1)))
def test_whole_numbers_survive_text(values: list[int | None]) -> None:
    assert read(pa.array([None if v is None else str(v) for v in values], pa.string()), "int64") == (values, [False] * len(values))


@given(st.lists(st.floats(allow_nan=False)))
def test_numbers_survive_text(values: list[float]) -> None:
    assert read(pa.array([repr(v) for v in values], pa.string()), "double") == (values, [False] * len(values))


@given(st.lists(st.datetimes(dt.datetime(1000, 1, 1), dt.datetime(9999, 12, 31))), st.integers(-14 * 60, 14 * 60))
def test_iso_moments_survive_text_in_any_zone(values: list[dt.datetime], minutes: int) -> None:
    zone = dt.timezone(dt.timedelta(minutes=minutes))
    moments = [value.replace(tzinfo=zone) for value in values if 1001 < value.year < 9999]
    wanted = [moment.astimezone(UTC) for moment in moments]
    assert read(pa.array([moment.isoformat() for moment in moments], pa.string()), "timestamp") == (wanted, [False] * len(wanted))


@given(st.lists(st.text()))
def test_no_text_breaks_the_reader(values: list[str]) -> None:
    values = [value for value in values if value.isprintable()]
    for kind in ARROW:
        found, unreadable = read(pa.array(values, pa.string()), kind)  # type: ignore[arg-type]
        assert len(found) == len(unreadable) == len(values)
        assert all(value is None for value, marked in zip(found, unreadable, strict=True) if marked), (
            "what cannot be read is null, never a guess"
        )


TEXTS = ["", " 7 ", "x", "true", "No", "1", "-1.50", "1e999", "-1e999", "1.e5", "+0", "-0.0", ".5", "inf", "nan", "١", "9" * 18, "9" * 19]
DATES = ["2020-02-30", "2020-02-29", "31.12.2019", "2020/1/2", "2020-01-01T10:00:00.25+02:00"]
NATIVE = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.sampled_from([0, 1, 2**53 + 1, 10**18 + 1, 2**63 - 1, 2**63, 2**64 - 1]),
    pa.float64(): st.floats() | st.sampled_from([0.5, 3.0, 2.0**53, 2.0**60, 1e300]),
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.string(): st.sampled_from(TEXTS + DATES) | st.text(max_size=4),
    pa.date32(): st.dates(),
    pa.timestamp("ms"): st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)).map(lambda each: each.replace(microsecond=0)),
    pa.timestamp("ns", "Europe/Paris"): st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(UTC)),
}


@pytest.mark.parametrize("kind", ARROW)
@pytest.mark.parametrize("native", NATIVE, ids=str)
@given(data=st.data())
@settings(max_examples=40)
def test_how_a_value_is_read_depends_on_no_other_value(native: pa.DataType, kind: ColumnType, data: st.DataObject) -> None:
    """Else the files and blocks that a table happens to lie in would decide what is learned from it."""
    array = pa.array(data.draw(st.lists(st.none() | NATIVE[native], min_size=1, max_size=6)), native)
    together, unreadable = cast(array, kind)
    alone = [cast(array.slice(i, 1), kind) for i in range(len(array))]
    assert unreadable.to_pylist() == [each.to_pylist()[0] for _, each in alone]
    assert TableDigest.of(pa.table({"x": together})) == TableDigest.of(pa.table({"x": pa.concat_arrays([each for each, _ in alone])}))


@given(
    st.lists(st.text("0123456789+-.eExXnaif ", max_size=6) | st.integers(-(10**20), 10**20).map(str), max_size=8),
    st.sampled_from(["int64", "double"]),
)
def test_how_a_number_is_read_does_not_hang_on_its_neighbours(texts: list[str], kind: ColumnType) -> None:
    together = read(pa.array([*texts, "0x1F"], pa.string()), kind)
    alone = [read(pa.array([text], pa.string()), kind) for text in [*texts, "0x1F"]]
    assert repr(together) == repr(([value for (value,), _ in alone], [mark for _, (mark,) in alone]))
