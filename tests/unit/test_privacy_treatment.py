"""Treatments: what each makes of a column, what is refused, and one definition for training, batch and serving."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.store import Store
from conf.errors import UsageError
from tables.casting import ARROW
from tables.contract import Column, Contract, Rule
from tables.privacy.keys import Keyring
from tables.privacy.treatment import from_words, parse, pinned, placeholder, treat, treated_alike, treated_contract, treatments


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(Store.open(tmp_path))


def contract(rules: list[Rule] | None = None, key: list[str] | None = None, **columns: Column) -> Contract:
    label = {"y": Column(type="bool", role="label")}
    return Contract(name="c", task="binary", label="y", columns={**columns, **label}, rules=rules or [], key=key or [])


def one(kind: str, values: list[Any], treatment: Any, keyring: Keyring) -> list[Any]:
    """The values after the treatment, held against the type that the treated contract promises."""
    wanted = contract(x=Column(type=kind, treatment=treatment))  # type: ignore[arg-type]
    treated = treat(wanted, pa.table({"x": pa.array(values, ARROW[kind])}), keyring)
    assert treated.column("x").type == ARROW[treated_contract(wanted).columns["x"].type]
    return treated.column("x").to_pylist()


def test_hash_is_hmac_sha256_of_the_value_as_text_under_the_current_key(keyring: Keyring) -> None:
    key = keyring.key(keyring.current())
    wanted = hmac.new(key, b"ann@example.org", hashlib.sha256).hexdigest()
    assert one("string", ["ann@example.org", None, "ann@example.org"], "hash", keyring) == [wanted, None, wanted]
    assert one("int64", [42], "hash", keyring) == [hmac.new(key, b"42", hashlib.sha256).hexdigest()]


def test_mask_tells_neither_the_length_nor_most_of_a_short_value(keyring: Keyring) -> None:
    given = ["4111111111111111", "12345", None, "ü" * 9]
    assert one("string", given, {"mask": {"keep": 4}}, keyring) == ["***1111", "***", None, "***üüüü"]
    assert one("string", ["anything"], {"mask": {"keep": 0}}, keyring) == ["***"]


def test_numbers_and_dates_become_coarse_towards_minus_infinity(keyring: Keyring) -> None:
    assert one("int64", [0, 9, 39, -1, -10, None], {"generalise": {"band": 10}}, keyring) == [
        "0-9",
        "0-9",
        "30-39",
        "-10--1",
        "-10--1",
        None,
    ]
    assert one("double", [39.9, -0.5], {"generalise": {"band": 10}}, keyring) == ["30-39", "-10--1"]
    assert one("int64", [1234, -1], {"generalise": {"width": 500}}, keyring) == [1000, -500]
    assert one("double", [0.74, -0.1], {"generalise": {"width": 0.25}}, keyring) == [0.5, -0.25]
    assert one("date", [dt.date(1987, 6, 5), None], {"generalise": {"to": "month"}}, keyring) == [dt.date(1987, 6, 1), None]
    moment = dt.datetime(1987, 6, 5, 4, 3, tzinfo=dt.UTC)
    assert one("timestamp", [moment], {"generalise": {"to": "year"}}, keyring) == [dt.datetime(1987, 1, 1, tzinfo=dt.UTC)]


def test_dropped_columns_are_gone_from_table_and_contract(keyring: Keyring) -> None:
    wanted = contract(email=Column(type="string", role="observed", treatment="drop"), n=Column(type="int64"))
    table = treat(wanted, pa.table({"email": ["a@b.org"], "n": [1], "y": [True]}), keyring)
    assert table.column_names == ["n", "y"] == list(treated_contract(wanted).columns)


def test_treated_contract_keeps_no_bound_or_rule_of_what_has_changed() -> None:
    age = Column(type="int64", min=0, max=120, privacy_class="personal", treatment={"generalise": {"band": 10}})
    rules = [Rule(name="old", check="age < 130"), Rule(name="n", check="n > 0")]
    treated = treated_contract(contract(rules, age=age, n=Column(type="int64", min=0)))
    assert treated.columns["age"] == Column(type="string", privacy_class="personal")
    assert treated.columns["n"].min == 0 and [rule.name for rule in treated.rules] == ["n"]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"type": "string", "treatment": "hashed"}, "no such treatment"),
        ({"type": "string", "treatment": {"mask": {"kep": 4}}}, "mask"),
        ({"type": "string", "treatment": {"mask": {"keep": -1}}}, "keep is not"),
        ({"type": "string", "treatment": {"generalise": {"band": 10}}}, "band is for int64 and double"),
        ({"type": "int64", "treatment": {"generalise": {}}}, "one of band, width, to"),
        ({"type": "int64", "treatment": {"generalise": {"width": 0.5}}}, "whole number"),
        ({"type": "int64", "treatment": {"generalise": {"band": 0}}}, "positive"),
        ({"type": "date", "treatment": {"generalise": {"to": "decade"}}}, "generalise"),
        ({"type": "string", "treatment": "drop"}, "treated alike when a model is asked"),
        ({"type": "string", "treatment": "tokenise"}, "treated alike when a model is asked"),
        ({"type": "string", "role": "key", "treatment": "mask"}, "join the keys"),
        ({"type": "string", "privacy_class": "personal"}, "nothing is done"),
        ({"type": "int64", "privacy_class": "secret"}, "nothing is done"),
    ],
)
def test_treatments_that_cannot_be_are_refused_with_the_column(column: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=rf"columns.x: .*{said}"):
        treatments(contract(key=["x"] if column.get("role") == "key" else [], x=Column(**column)))


def test_a_pinned_hash_keeps_its_key_after_a_rotation(keyring: Keyring) -> None:
    wanted = contract(x=Column(type="string", treatment="hash"), n=Column(type="int64"))
    table = pa.table({"x": ["ann"]})
    before = pinned(wanted, keyring)
    first = treat(before, table, keyring)
    keyring.rotate()
    after = pinned(wanted, keyring)
    assert treat(before, table, keyring) == first != treat(after, table, keyring)
    assert not treated_alike(before, after, ["x", "n"]) and treated_alike(before, after, ["n"])
    assert pinned(before, keyring) is before


@pytest.mark.parametrize("words", ["drop", "mask,keep=2", "generalise,to=month", "generalise,width=0.5", ""])
def test_typed_words_are_the_treatment_that_they_name(words: str) -> None:
    kind = {"month": "date", "0.5": "double"}.get(words.rpartition("=")[2], "string")
    treatment = parse(Column(type=kind, treatment=from_words(words)))  # type: ignore[arg-type]
    assert (treatment is None) == (words == "") and type(treatment).__name__.lower() in ("nonetype", words.partition(",")[0])


def test_a_placeholder_is_a_value_that_the_contract_takes() -> None:
    assert placeholder(Column(type="int64", nullable=False, min=18.5)) == 19
    assert placeholder(Column(type="string", nullable=False, allowed=["b"])) == "b"
    assert placeholder(Column(type="date")) is None
