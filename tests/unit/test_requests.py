"""Bodies become typed rows, or an error that names row, field, value and type."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest

from serve.errors import HttpError
from serve.requests import RowDecoder
from tables.contract import Column, Contract, Rule

CONTRACT = Contract(
    name="t",
    task="binary",
    label="late",
    key=["id"],
    columns={
        "distance": Column(type="double", nullable=False),
        "carrier": Column(type="string"),
        "stops": Column(type="int64"),
        "weekend": Column(type="bool"),
        "day": Column(type="date"),
        "at": Column(type="timestamp"),
        "wind.speed ü": Column(type="double"),
        "late": Column(type="string", role="label"),
        "id": Column(type="int64", role="key"),
        "delay": Column(type="double", role="observed"),
    },
)
GOOD = {
    "distance": 10.5,
    "carrier": "AA",
    "stops": 2,
    "weekend": True,
    "day": "2026-01-31",
    "at": "2026-01-31T09:30:00Z",
    "wind.speed ü": 3,
}
UTC = dt.UTC


@pytest.fixture(scope="module")
def decoder() -> RowDecoder:
    return RowDecoder(CONTRACT, CONTRACT.schema(CONTRACT.features))


def refused(decoder: RowDecoder, body: bytes | dict[str, Any]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        decoder.decode(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert 400 <= caught.value.status < 500
    json.dumps(caught.value.as_json()).encode()
    return caught.value


def test_rows_become_the_contracts_types(decoder: RowDecoder) -> None:
    batch = decoder.batch(decoder.decode(json.dumps({"rows": [GOOD, {"distance": 1}]}).encode()))
    assert batch.schema == decoder.schema
    first, second = batch.to_pylist()
    assert first == {**GOOD, "day": dt.date(2026, 1, 31), "at": dt.datetime(2026, 1, 31, 9, 30, tzinfo=UTC), "wind.speed ü": 3.0}
    assert second == {**dict.fromkeys(GOOD), "distance": 1.0}


@pytest.mark.parametrize("count", [1, 7, 32, 33, 1000])
def test_few_and_many_rows_and_columns_are_built_alike(decoder: RowDecoder, count: int) -> None:
    rows = [{**GOOD, "stops": i if i % 3 else None} for i in range(count)]
    by_rows = decoder.batch(decoder.decode(json.dumps({"rows": rows}).encode()))
    columns = {name: [row[name] for row in rows] for name in GOOD}
    assert decoder.batch(decoder.decode(json.dumps({"columns": columns}).encode())).equals(by_rows)
    assert by_rows.num_rows == count
    assert by_rows.equals(pa.concat_tables([pa.table(decoder.batch([row])) for row in decoder.decode(json.dumps({"rows": rows}).encode())])
                          .combine_chunks().to_batches()[0])  # fmt: skip


def test_columns_that_are_no_features_come_along_and_are_ignored(decoder: RowDecoder) -> None:
    for extra in ({"late": "yes"}, {"id": "not even a number"}, {"delay": {"nested": [1, 2]}}):
        assert len(decoder.decode(json.dumps({"rows": [{**GOOD, **extra}]}).encode())) == 1
    assert len(decoder.decode(json.dumps({"columns": {"distance": [1.0], "id": [7]}}).encode())) == 1


def test_local_times_are_utc_and_offsets_are_applied(decoder: RowDecoder) -> None:
    body = {"rows": [{"distance": 1, "at": "2026-01-31T09:30:00"}, {"distance": 1, "at": "2026-01-31T09:30:00+02:00"}]}
    values = decoder.batch(decoder.decode(json.dumps(body).encode())).column("at").to_pylist()
    assert values == [dt.datetime(2026, 1, 31, 9, 30, tzinfo=UTC), dt.datetime(2026, 1, 31, 7, 30, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("change", "says", "value", "allowed"),
    [
        ({"distance": "far"}, "rows[1].distance is not a number", "far", "a number"),
        ({"distance": None}, "rows[1].distance is null", None, "a number"),
        ({"stops": 1.5}, "rows[1].stops is not a whole number", 1.5, "a whole number or null"),
        ({"stops": 2**63}, "rows[1].stops is above 9223372036854775807", 2**63, "a whole number or null"),
        ({"stops": True}, "rows[1].stops is not a whole number", True, "a whole number or null"),
        ({"carrier": 7}, "rows[1].carrier is not text", 7, "text or null"),
        ({"carrier": ["AA"]}, "rows[1].carrier is not text", '["AA"]', "text or null"),
        ({"weekend": 1}, "rows[1].weekend is not true or false", 1, "true or false or null"),
        ({"day": "31.01.2026"}, "rows[1].day is not a date as 2024-01-31", "31.01.2026", "a date as 2024-01-31 or null"),
        ({"at": "noon"}, "rows[1].at is not a time", "noon", "a time as 2024-01-31T09:30:00Z or null"),
        ({"wind.speed ü": "x" * 500}, "rows[1].wind.speed ü is not a number", "x" * 80 + "...", "a number or null"),
        ({"carier": "AA"}, "did you mean 'carrier'?", "carier", "distance, carrier"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_row_value_and_type(
    decoder: RowDecoder, change: dict[str, Any], says: str, value: Any, allowed: str
) -> None:
    error = refused(decoder, {"rows": [GOOD, {**GOOD, **change}]})
    assert error.status == 422
    assert says in error.what and "rows[1]" in error.what
    assert error.value == value
    assert error.allowed.startswith(allowed)
    assert "`" not in error.message


def test_a_missing_required_feature_is_named(decoder: RowDecoder) -> None:
    error = refused(decoder, {"rows": [{"carrier": "AA"}]})
    assert (error.status, error.what, error.allowed) == (422, "rows[0] has no 'distance'", "a number")
    assert refused(decoder, {"columns": {"carrier": ["AA"]}}).what == "columns has no 'distance'"


def test_columns_name_row_and_field_too(decoder: RowDecoder) -> None:
    error = refused(decoder, {"columns": {"distance": [1, 2, "x"]}})
    assert error.what.startswith("rows[2].distance") and error.value == "x"
    assert "different numbers" in refused(decoder, {"columns": {"distance": [1, 2], "stops": [1]}}).what


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\x80\x04\x95pickle", 400),
        (b"\xef\xbb\xbf{}", 400),
        (b'{"rows": [{"distance": NaN}]}', 400),
        (b'{"rows": [{"distance": Infinity}]}', 400),
        (b'{"rows": [{"distance": 1e999}]}', 422),
        (b'{"rows": [{"distance": ' + b"9" * 5000 + b"}]}", 422),
        (b'{"rows": [{"distance": 1, "stops": ' + b"9" * 5000 + b"}]}", 422),
        (b'{"rows": [{"distance": 1, "carrier": "\\ud800"}]}', 400),
        (b'{"rows": [{"distance": 1, "carrier": "\\udc00x"}]}', 400),
        (b'{"rows": [{"distance": 1, "carrier": "\xff"}]}', 400),
        (b'{"rows": [{"distance": 1, "distance": 2}]}', 400),
        (b'{"rows": [{"distance": 1, "\\u0064istance" : 2}]}', 400),
        (b'{"rows": [{"distance": 1, "id": {"a": 1, "a": 2}}]}', 400),
        (b'{"rows": [{"distance": 1}], "rows": [{"distance": 1}]}', 400),
        (b"[" * 100_000, 422),
        (b'{"rows": ' + b"[" * 100_000, 422),
        (b'{"rows": [{"distance": 1, "late": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", 400),
        (b'{"rows": []}', 422),
        (b'{"columns": {"distance": []}}', 422),
        (b"{}", 422),
        (b'{"rows": [{"distance": 1}], "columns": {"distance": [1]}}', 422),
        (b'{"rows": {"distance": 1}}', 422),
        (b'{"rows": [null]}', 422),
        (b'"rows"', 422),
        (b'{"row": [{"distance": 1}]}', 422),
    ],
)
def test_hostile_bodies_are_the_clients_fault(decoder: RowDecoder, body: bytes, status: int) -> None:
    assert refused(decoder, body).status == status


def test_text_that_looks_like_a_key_is_no_duplicate(decoder: RowDecoder) -> None:
    body = json.dumps({"rows": [{"distance": 1, "carrier": 'he said "distance": 2, "distance": 3'}]}).encode()
    assert decoder.decode(body)[0][1].startswith("he said")


BOUNDED = Contract(
    name="t",
    task="binary",
    label="y",
    columns={
        "weekday": Column(type="int64", min=0, max=6, nullable=False),
        "stops": Column(type="int64", min=0.5),
        "humid": Column(type="double", min=0, max=100),
        "temp": Column(type="double", max=130.5),
        "origin": Column(type="string", allowed=["EWR", "JFK"], nullable=False),
        "carrier": Column(type="string", allowed=["AA", "DL - at `$.rows[7].temp`"]),
        "code": Column(type="int64", allowed=["1", "2"]),
        "dest": Column(type="string", nullable=False),
        "loose": Column(type="int64", min=0, max=1, severity="warn"),
        "free": Column(type="string", allowed=["a"], severity="warn"),
        "y": Column(type="string", role="label"),
    },
)
KEPT = {
    "weekday": 6,
    "stops": 1,
    "humid": 0,
    "temp": -400,
    "origin": "JFK",
    "carrier": "AA",
    "code": 2,
    "dest": "LAX",
    "loose": 9,
    "free": "b",
}


@pytest.mark.parametrize(
    ("field", "value", "says", "allowed"),
    [
        ("weekday", 7, "is above 6", "a whole number from 0 to 6"),
        ("weekday", -1, "is below 0", "a whole number from 0 to 6"),
        ("weekday", 1e1, "is not a whole number", "a whole number from 0 to 6"),
        ("stops", 0, "is below 1", "a whole number from 1 on or null"),
        ("humid", 100.5, "is above 100", "a number from 0 to 100 or null"),
        ("humid", "wet", "is not a number", "a number from 0 to 100 or null"),
        ("temp", 131, "is above 130.5", "a number up to 130.5 or null"),
        ("origin", "LGA", "is not an allowed value", "one of EWR, JFK"),
        ("origin", "", "is not an allowed value", "one of EWR, JFK"),
        ("origin", None, "is null", "one of EWR, JFK"),
        ("carrier", "x - at `$.rows[7].temp`", "is not an allowed value", "one of AA, DL - at `$.rows[7].temp` or null"),
        ("carrier", 3, "is not text", "one of AA, DL - at `$.rows[7].temp` or null"),
        ("code", 3, "is not an allowed value", "one of 1, 2 or null"),
        ("code", "1", "is not a whole number", "one of 1, 2 or null"),
        ("dest", "", "is empty", "text"),
    ],
)
def test_what_the_contract_bounds_is_refused_in_rows_and_columns(field: str, value: Any, says: str, allowed: str) -> None:
    decoder = RowDecoder(BOUNDED, BOUNDED.schema(BOUNDED.features))
    wrong = {**KEPT, field: value}
    for body in ({"rows": [KEPT, wrong]}, {"columns": {name: [KEPT[name], wrong[name]] for name in KEPT}}):
        error = refused(decoder, body)
        assert (error.status, error.what, error.value, error.allowed) == (422, f"rows[1].{field} {says}", value, allowed)


def test_what_keeps_the_bounds_or_only_breaks_a_warning_is_answered() -> None:
    decoder = RowDecoder(BOUNDED, BOUNDED.schema(BOUNDED.features))
    nulls = {"weekday": 0, "origin": "EWR", "dest": " ", "carrier": None}
    batch = decoder.batch(decoder.decode(json.dumps({"rows": [KEPT, nulls]}).encode()))
    assert batch.to_pylist() == [KEPT, {**dict.fromkeys(KEPT), **nulls}]


def test_bounds_that_leave_no_value_refuse_every_value() -> None:
    columns = {"x": Column(type="int64", allowed=["one"]), "y": Column(type="string", role="label")}
    decoder = RowDecoder(contract := Contract(name="t", task="binary", label="y", columns=columns), contract.schema(["x"]))
    assert decoder.decode(b'{"rows": [{"x": null}]}') == [(None,)]
    assert "rows[0].x" in refused(decoder, b'{"rows": [{"x": 1}]}').what


ASKED = Contract(
    name="t",
    task="binary",
    label="y",
    columns={
        "code": Column(type="string", pattern=r"[A-Z]+\d"),
        "note": Column(type="string", pattern="never", severity="warn"),
        "low": Column(type="int64"),
        "high": Column(type="int64"),
        "y": Column(type="bool", role="label"),
    },
    rules=[
        Rule(name="order", check="low <= high"),
        Rule(name="warned", check="low > 100", severity="warn"),
        Rule(name="of the label", check="y"),
    ],
)


@pytest.mark.parametrize(
    ("wrong", "what", "allowed"),
    [
        ({"code": "A1b"}, "rows[1].code does not match its pattern", r"[A-Z]+\d"),
        ({"low": 3, "high": 2}, "rows[1] breaks the rule 'order'", "low <= high"),
    ],
)
def test_patterns_and_rules_over_features_are_asked_of_requests(wrong: dict[str, Any], what: str, allowed: str) -> None:
    decoder = RowDecoder(ASKED, ASKED.schema(ASKED.features))
    good = {"code": "A1", "note": "x", "low": 1, "high": 2}
    assert len(decoder.decode(json.dumps({"rows": [good, {"low": 5}, {"code": ""}]}).encode())) == 3
    for body in ({"rows": [good, {**good, **wrong}]}, {"columns": {name: [good[name], {**good, **wrong}[name]] for name in good}}):
        error = refused(decoder, body)
        assert (error.status, error.what, error.allowed) == (422, what, allowed)
    assert decoder.describe()[0]["expected"] == r"text that matches [A-Z]+\d"


@pytest.mark.parametrize("count", [1, 40])
def test_empty_text_is_a_null(decoder: RowDecoder, count: int) -> None:
    rows = {"rows": [{"distance": 1, "carrier": text} for text in ["", "AA", None] * count]}
    columns = {"columns": {name: [row[name] for row in rows["rows"]] for name in ("distance", "carrier")}}
    for body in (rows, columns):
        assert decoder.batch(decoder.decode(json.dumps(body).encode())).column("carrier").to_pylist() == [None, "AA", None] * count


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"rows": {"distance": 1}}', "rows is not a list"),
        (b'{"rows": [null]}', "rows[0] is null"),
        (b'{"rows": [[1]]}', "rows[0] is not an object"),
        (b'{"columns": [1]}', "columns is not an object"),
        (b'{"columns": {"distance": 1}}', "columns.distance is not a list"),
        (b'{"columns": {"distance": null}}', "columns.distance is not a list"),
        (b'"rows"', "the body is not an object"),
        (b'{"rows": [{"distance": 1e999}]}', "rows[0].distance is out of range"),
    ],
)
def test_the_form_of_a_body_is_told_in_plain_words(decoder: RowDecoder, body: bytes, says: str) -> None:
    assert refused(decoder, body).what == says
