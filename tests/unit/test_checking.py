"""One pass over a batch: patterns, references, and where a bad row came from; and that nothing is checked twice for nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from tables.checking import check, check_features, matches
from tables.contract import Column, Contract, Rule
from tables.promises import Reference
from tables.references import index_of


def contract(columns: dict[str, Column], **more: object) -> Contract:
    label = {"y": Column(type="bool", role="label")}
    return Contract(name="t", task="binary", label="y", columns={**columns, **label}, **more)  # type: ignore[arg-type]


def table(**columns: object) -> pa.Table:
    count = len(next(iter(columns.values())))  # type: ignore[arg-type]
    return pa.table({**columns, "y": [True] * count})


def broken(wanted: Contract, given: pa.Table, **more: object) -> list[str | None]:
    return check(wanted, given, **more).rule.to_pylist()  # type: ignore[arg-type]


def test_a_pattern_must_match_the_whole_text_and_asks_nothing_of_a_missing_one() -> None:
    wanted = contract({"code": Column(type="string", pattern=r"[A-Z]{2}\d+|none")})
    given = table(code=["AB1", "xAB1", "AB1x", "none", "nones", "AB1\n", None, ""])
    assert broken(wanted, given) == [None, *["code.pattern"] * 2, None, *["code.pattern"] * 2, None, None]
    assert check(wanted, given).bad["_reason"][0].as_py() == r"code does not match [A-Z]{2}\d+|none"


@given(st.lists(st.none() | st.text("ab1\n", max_size=3), max_size=40), st.sampled_from(["a+", "a|b", "(?i)A.*", "", "[^a]*", "(?m)a$"]))
def test_few_or_many_distinct_texts_match_alike(texts: list[str | None], pattern: str) -> None:
    found = matches(pattern, pa.array(texts * 3, pa.string())).to_pylist()
    assert found == [one for text in texts for one in matches(pattern, pa.array([text], pa.string())).to_pylist()] * 3


def test_severity_of_a_pattern_is_that_of_its_column() -> None:
    wanted = contract({"code": Column(type="string", pattern="a", severity="warn")})
    assert check(wanted, table(code=["a", "b", "b"])).warned == {"code.pattern": 2}
    with pytest.raises(UsageError, match=r"'code\.pattern' is broken by 1 rows"):
        check(contract({"code": Column(type="string", pattern="a", severity="stop")}), table(code=["a", "b"]))


def test_rows_to_be_answered_are_held_to_patterns_too() -> None:
    wanted = contract({"code": Column(type="string", pattern="a", severity="stop")})
    assert check_features(wanted, pa.table({"code": ["a", "b"]})).rule.to_pylist() == [None, "code.pattern"]


def test_bad_rows_keep_their_origin_and_good_ones_lose_it() -> None:
    wanted = contract({"x": Column(type="int64", min=0)})
    given = (
        table(x=["1", "-1", "two"])
        .append_column("_file", pa.array(["a.csv"] * 3))
        .append_column("_row", pa.array([1, 2, None], pa.int64()))
    )
    checked = check(wanted, given)
    assert checked.good.to_pylist() == [{"x": 1, "y": True}]
    assert checked.bad.select(["x", "_file", "_row", "_rule"]).to_pylist() == [
        {"x": -1, "_file": "a.csv", "_row": 2, "_rule": "x.min"},
        {"x": None, "_file": "a.csv", "_row": None, "_rule": "x.type"},
    ]
    assert checked.marked(given)["x"].to_pylist() == ["-1", "two"], "as they stood in the source"


def test_a_batch_without_a_bad_row_is_not_copied() -> None:
    given = table(x=pa.array([1, 2, 3]))
    good = check(contract({"x": Column(type="int64", min=0, max=9, nullable=False)}), given).good
    assert good["x"].chunk(0).buffers()[1].address == given["x"].chunk(0).buffers()[1].address


def test_bounds_beyond_what_a_column_can_hold_are_kept_by_all() -> None:
    assert broken(contract({"x": Column(type="int64", min=-1e300, max=1e19)}), table(x=[-(2**63), 2**63 - 1])) == [None, None]


def test_a_rule_over_constants_alone_judges_every_row() -> None:
    assert broken(contract({"x": Column(type="int64")}, rules=[Rule(name="r", check="1 > 2")]), table(x=[1, 2])) == ["r", "r"]


TO_KINDS = Reference(columns=["a", "b"], table="kinds", to=["k", "l"])


@pytest.fixture
def referring() -> Contract:
    return contract({"a": Column(type="int64"), "b": Column(type="string")}, references=[TO_KINDS])


def test_rows_refer_to_what_the_other_table_has(referring: Contract) -> None:
    kinds = [pa.table({"k": ["1", "2"], "l": ["x", "y"]}), pa.table({"k": ["2", None], "l": ["y", "z"]})]
    index = {TO_KINDS.name: index_of(referring, TO_KINDS, kinds)}
    assert len(index[TO_KINDS.name]) == 2
    given = table(a=[1, 2, 1, None, 7], b=["x", "y", "y", "q", None])
    assert broken(referring, given, indexes=index) == [None, None, "a+b in kinds", None, None]
    assert check(referring, given, index).bad["_reason"].to_pylist() == ["a, b is not among k, l of kinds"]
    assert broken(referring, given) == [None] * 5, "nothing is asked without an index"


def test_an_empty_table_has_nothing_to_refer_to(referring: Contract) -> None:
    assert broken(referring, table(a=[1], b=["x"]), indexes={TO_KINDS.name: np.zeros(0, np.uint64)}) == ["a+b in kinds"]
    assert (
        broken(referring, table(a=pa.array([], pa.int64()), b=pa.array([], pa.string())), indexes={TO_KINDS.name: np.zeros(0, np.uint64)})
        == []
    )


def test_a_column_that_the_other_table_lacks_is_named(referring: Contract) -> None:
    with pytest.raises(UsageError, match="refers to a column that kinds has not"):
        index_of(referring, TO_KINDS, [pa.table({"k": [1]})])
