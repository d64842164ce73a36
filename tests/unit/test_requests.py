"""Bodies become typed rows, or an error that names row, field, value and type."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest

from serve.errors import HttpError
from serve.requests import RowDecoder
from tables.contract import Column, Contract

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
        ({"distance": "far"}, "rows[1].distance", "far", "a number"),
        ({"distance": None}, "rows[1].distance", None, "a number"),
        ({"stops": 1.5}, "rows[1].stops", 1.5, "a whole number of 64 bits or null"),
        ({"stops": 2**63}, "rows[1].stops", 2**63, "a whole number of 64 bits or null"),
        ({"stops": True}, "rows[1].stops", True, "a whole number of 64 bits or null"),
        ({"carrier": 7}, "rows[1].carrier", 7, "a string or null"),
        ({"carrier": ["AA"]}, "rows[1].carrier", '["AA"]', "a string or null"),
        ({"weekend": 1}, "rows[1].weekend", 1, "true or false or null"),
        ({"day": "31.01.2026"}, "rows[1].day", "31.01.2026", 'a date such as "2026-01-31" or null'),
        ({"at": "noon"}, "rows[1].at", "noon", 'a time such as "2026-01-31T09:30:00Z" or null'),
        ({"wind.speed ü": "x" * 500}, "rows[1].wind.speed ü", "x" * 80 + "...", "a number or null"),
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
