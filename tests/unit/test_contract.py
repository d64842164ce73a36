"""A table under its contract: good rows typed, bad rows kept with their reason, mistakes of the contract named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from tables.checking import check
from tables.contract import Column, Contract, Rule, as_yaml
from tables.promises import Distribution, Freshness, Reference, RowCount


def contract(columns: dict[str, Column] | None = None, rules: list[Rule] | None = None, **more: object) -> Contract:
    label = {"y": Column(type="bool", role="label", nullable=False)}
    return Contract(
        name="t", task="binary", label="y", columns={**(columns or {"x": Column(type="int64")}), **label}, rules=rules or [], **more
    )  # type: ignore[arg-type]


def verdicts(wanted: Contract, **columns: list) -> list[str | None]:
    """The broken rule of each row, None for a good one."""
    count = len(next(iter(columns.values())))
    table = pa.table({"row": list(range(count)), **columns, **({} if "y" in columns else {"y": [True] * count})})
    by_row = Contract(
        **{
            **{f: getattr(wanted, f) for f in wanted.__struct_fields__},
            "columns": {"row": Column(type="int64", role="key"), **wanted.columns},
        }
    )
    checked = check(by_row, table)
    assert checked.good.num_rows + checked.bad.num_rows == count, "a row was lost or doubled"
    assert checked.good.schema == by_row.schema()
    found = dict(zip(checked.bad["row"].to_pylist(), checked.bad["_rule"].to_pylist(), strict=True))
    return [found.get(row) for row in range(count)]


def test_bad_rows_carry_the_first_broken_rule_and_its_reason() -> None:
    wanted = contract(
        {"x": Column(type="int64", min=0, max=9), "c": Column(type="string", nullable=False, allowed=["a", "b"])},
        [Rule(name="even", check="x != 3")],
    )
    table = pa.table(
        {
            "x": ["1", "-1", "10", "one", None, "3"],
            "c": ["a", "b", "z", "a", None, "b"],
            "y": [True, None, True, True, True, False],
            "more": [0] * 6,
        }
    )
    checked = check(wanted, table)
    assert checked.good.to_pylist() == [{"x": 1, "c": "a", "y": True}]
    assert list(zip(checked.bad["_rule"].to_pylist(), checked.bad["_reason"].to_pylist(), strict=True)) == [
        ("x.min", "x is below 0"),
        ("x.max", "x is above 9"),
        ("x.type", "x is not a int64"),
        ("c.nullable", "c is null"),
        ("even", "not x != 3"),
    ]


def test_a_missing_label_says_so() -> None:
    checked = check(contract(), pa.table({"x": [1, 2], "y": pa.array([None, True])}))
    assert checked.bad["_reason"].to_pylist() == ["the label is missing"]


def test_warnings_are_counted_and_the_rows_kept() -> None:
    wanted = contract({"x": Column(type="int64", max=1, severity="warn")}, [Rule(name="odd", check="x != 2", severity="warn")])
    checked = check(wanted, pa.table({"x": [1, 2, 3], "y": [True] * 3}))
    assert (checked.good.num_rows, checked.warned) == (3, {"x.max": 2, "odd": 1})


def test_an_unreadable_value_is_never_only_a_warning() -> None:
    assert verdicts(contract({"x": Column(type="int64", severity="warn")}), x=["1", "ten"]) == [None, "x.type"]


def test_a_stop_rule_stops() -> None:
    with pytest.raises(UsageError, match=r"'x\.min' is broken by 2 rows"):
        check(contract({"x": Column(type="int64", min=0, severity="stop")}), pa.table({"x": [-1, -2, 0], "y": [True] * 3}))


def test_bounds_of_whole_numbers_need_not_be_whole() -> None:
    assert verdicts(contract({"x": Column(type="int64", min=0.5, max=2.5)}), x=[0, 1, 2, 3]) == ["x.min", None, None, "x.max"]
    assert verdicts(contract({"x": Column(type="int64", min=-1.5, max=-0.5)}), x=[-2, -1, 0]) == ["x.min", None, "x.max"]


def test_bounds_do_not_judge_missing_values_and_nan_is_missing() -> None:
    wanted = contract({"x": Column(type="double", min=0, max=1)})
    assert verdicts(wanted, x=[None, float("nan"), 0.5, float("inf")]) == [None, None, None, "x.max"]
    assert verdicts(contract({"x": Column(type="double", nullable=False)}), x=[None, float("nan"), 0.5]) == ["x.nullable"] * 2 + [None]


def test_a_rule_without_its_values_is_kept() -> None:
    assert verdicts(contract(rules=[Rule(name="big", check="x > 5")]), x=[None, 1, 9]) == [None, "big", None]


def test_an_empty_table_keeps_its_types() -> None:
    wanted = contract(rules=[Rule(name="big", check="x > 5")])
    checked = check(wanted, pa.table({"x": pa.array([], pa.string()), "y": pa.array([], pa.string())}))
    assert checked.good.schema == wanted.schema()
    assert checked.bad.num_rows == 0


def test_missing_columns_are_named() -> None:
    with pytest.raises(UsageError, match=r"lacks columns: 'x, y'"):
        check(contract(), pa.table({"z": [1]}))


@given(st.lists(st.tuples(st.none() | st.integers(-3, 3), st.none() | st.booleans()), max_size=30), st.integers(0, 30))
def test_no_row_is_lost_and_batches_do_not_matter(rows: list[tuple[int | None, bool | None]], cut: int) -> None:
    wanted = contract({"x": Column(type="int64", min=-1, nullable=False)}, [Rule(name="small", check="x < 3")])
    table = pa.table({"x": pa.array([x for x, _ in rows], pa.int64()), "y": pa.array([y for _, y in rows], pa.bool_())})
    whole, parts = check(wanted, table), [check(wanted, part) for part in (table.slice(0, cut), table.slice(cut))]
    assert whole.good.num_rows + whole.bad.num_rows == len(rows)
    assert whole.good.equals(pa.concat_tables([part.good for part in parts]))
    assert whole.bad.equals(pa.concat_tables([part.bad for part in parts]))


def test_roles_decide_what_is_a_feature() -> None:
    wanted = contract(
        {
            "id": Column(type="int64", role="key"),
            "when": Column(type="timestamp", role="time"),
            "after": Column(type="int64", role="observed"),
            "x": Column(type="double"),
        }
    )
    assert wanted.features == ["x"]


WRITTEN = """
name: t
task: binary
label: late
columns:
  x: {type: int64, min: 0}
  late: {type: bool, role: label}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("label: late", "label: latte", "did you mean 'late'"),
        ("role: label", "role: feature", "another role"),
        ("type: int64, min", "type: integer, min", "columns.*x.*type|Invalid enum value 'integer'"),
        ("min: 0", "mni: 0", "unknown field `mni`"),
        ("min: 0", "min: .inf", "bounds no int64"),
        ("type: int64, min: 0", "type: date, min: 0", "bounds no date"),
        ("x: {type: int64, min: 0}", "x: {type: int64, role: key}", "no column is a feature"),
        ("name: t", "name: t\nkey: [y]", "key is not a column"),
        ("name: t", "name: t\ntime: y", "time is not a column"),
        ("name: t", "name: t\nrules: [{name: r, check: 'z > 1'}]", "unknown column"),
        ("name: t", "name: t\nrules: [{name: r, check: \"x > 'a'\"}]", "does not fit"),
        ("name: t", "name: t\nformat: 2", "format"),
        ("name: t", "name: [", "not a contract"),
        ("  x:", "  _row: {type: int64}\n  x:", "_row is the name of a column that raycycle adds"),
        ("  x:", "  _scores: {type: double}\n  x:", "_scores is the name"),
        ("min: 0", "min: 3, max: 2", "x.min is above its max"),
        ("type: int64, min: 0", "type: int64, pattern: a", "pattern matches no int64"),
        ("type: int64, min: 0", "type: string, pattern: 'a)|(b'", "not an RE2 regular expression"),
        ("type: int64, min: 0", "type: string, pattern: '(?=a)'", "not an RE2 regular expression"),
        ("min: 0", "class: private", "Invalid enum value 'private'"),
        ("name: t", "name: t\nmax_bad_fraction: 5", "no share"),
        ("name: t", "name: t\nunique: [[x, z]]", "unique is not a column"),
        ("name: t", "name: t\nunique: [[]]", "unique names no column"),
        ("name: t", "name: t\nreferences: [{columns: [x], table: u, to: [a, b]}]", "another number of columns"),
        ("name: t", "name: t\nreferences: [{columns: [x], table: ../u, to: [a]}]", "dataset|references.table|not usable"),
        ("name: t", "name: t\nrows: {min: 9, max: 3}", "rows.min is above rows.max"),
        ("name: t", "name: t\nrows: {change: -1}", "rows.change is no bound"),
        ("name: t", "name: t\nrows: {severity: quarantine}", "no row to quarantine"),
        ("name: t", "name: t\nfreshness: {column: x, max_age: 7d}", "freshness.column is a int64"),
        ("name: t", "name: t\nfreshness: {column: x}", "max_age"),
        ("name: t", "name: t\ndistributions: {x: {psi: .nan}}", "psi is no bound"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "t.yaml"
    assert old in WRITTEN
    file.write_text(WRITTEN.replace(old, new))
    with pytest.raises(UsageError, match=said):
        Contract.load(file)


def test_an_age_needs_a_unit(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(WRITTEN.replace("  x:", "  at: {type: date}\n  x:") + "freshness: {column: at, max_age: 7 days}\n")
    with pytest.raises(UsageError, match="max_age is no age: '7 days'"):
        Contract.load(file)
    file.write_text(file.read_text().replace("7 days", "7d"))
    assert Contract.load(file).freshness == Freshness(column="at", max_age="7d")


def test_text_has_no_order_to_compare(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(WRITTEN.replace("type: int64, min: 0", "type: string") + "distributions: {x: {ks: 0.1}}\n")
    with pytest.raises(UsageError, match="text has no order"):
        Contract.load(file)


def test_every_promise_survives_its_own_yaml(tmp_path: Path) -> None:
    columns = {
        "x": Column(type="string", pattern="a+", privacy_class="personal", treatment={"how": "mask", "keep": 2}),
        "at": Column(type="timestamp"),
    }
    wanted = contract(
        columns,
        unique=[["x"], ["x", "at"]],
        references=[Reference(columns=["x"], table="u", to=["k"], severity="stop")],
        rows=RowCount(min=1, change=0.5),
        freshness=Freshness(column="at", max_age="36h", severity="warn"),
        distributions={"x": Distribution(psi=0.2)},
    )
    (tmp_path / "t.yaml").write_text(wanted.dump())
    assert Contract.load(tmp_path / "t.yaml") == wanted
    assert "class: personal" in wanted.dump()


def test_a_contract_without_the_newer_promises_is_written_as_it_was() -> None:
    assert contract().dump().split("\n") == [
        "name: t",
        "task: binary",
        "label: y",
        "columns:",
        "  x:",
        "    type: int64",
        "    role: feature",
        "    nullable: true",
        "  y:",
        "    type: bool",
        "    role: label",
        "    nullable: false",
        "max_bad_fraction: 0.05",
        "format: 1",
        "",
    ]


def test_the_contract_in_the_docs_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
    (tmp_path / "shop.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    shop = Contract.load(tmp_path / "shop.yaml")
    assert shop.unique == [["order_id"]] and shop.references[0].name == "country in countries" and shop.distributions["price"].ks == 0.1


def test_a_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing") as caught:
        Contract.load(tmp_path / "no.yaml")
    assert "raycycle init" in caught.value.next


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(
    st.dictionaries(names.filter(lambda n: n != "y"), st.sampled_from(["string", "int64", "double", "date"]), min_size=1, max_size=4),
    names,
    st.lists(names),
)
def test_a_contract_survives_its_own_yaml(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, str], note: str, allowed: list[str]
) -> None:
    wanted = contract({name: Column(type=kind, note=note, allowed=allowed or None) for name, kind in columns.items()}, positive=True)  # type: ignore[arg-type]
    file = tmp_path_factory.mktemp("contract", numbered=True) / "t.yaml"
    file.write_text(wanted.dump(), encoding="utf-8")
    assert Contract.load(file) == wanted


def test_yaml_keeps_what_a_person_reads() -> None:
    assert "Zürich" in as_yaml({"name": "Zürich"})
