"""The page of a snapshot: the same facts whatever the files, private values not shown, odd tables drawn, wide ones kept small."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tables_in import CONTRACT, made_by, written

from cluster.progress import Progress
from cluster.store import Store
from conf.errors import UsageError
from flows import data_report
from flows.data_facts import DataFacts, facts_of
from tables.contract import Contract
from tables.privacy.treatment import treated_contract
from tables.snapshots import open_snapshot

RUN = "1a" * 16
ROWS = 600


def contract_of(text: str, tmp_path: Path) -> Contract:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return treated_contract(Contract.load(tmp_path / "c.yaml"))


def shop(**changed: Any) -> pa.Table:
    random = np.random.default_rng(0)
    late = random.random(ROWS) < np.where(np.arange(ROWS) < ROWS // 2, 0.2, 0.6)
    columns = {
        "id": pa.array(range(ROWS)),
        "day": pa.array([dt.date(2026, 1, 1) + dt.timedelta(days=i // 5) for i in range(ROWS)]),
        "price": pa.array(random.normal(size=ROWS)),
        "city": pa.array(random.choice(["Bern", "Rome", "<script>alert(1)</script>"], ROWS).tolist()),
        "email": pa.array([f"secret-{i}" for i in range(ROWS)]),
        "late": pa.array(late),
    }
    return pa.table(columns | changed)


def described(store: Store, contract: Contract, *tables: pa.Table) -> DataFacts:
    return facts_of(written(store, *tables, name=f"t{len(list(store.tables.iterdir()))}"), contract, {"price.min": 3}, {})


def test_any_order_and_layout_of_the_rows_gives_the_same_page(store: Store, tmp_path: Path) -> None:
    contract, table = contract_of(CONTRACT, tmp_path), shop()
    turned = table.take(pa.array(np.random.default_rng(1).permutation(ROWS)))
    pages = [data_report.render(described(store, contract, *parts)) for parts in ([table], [turned.slice(0, 7), turned.slice(7)])]
    assert pages[0].replace("t0@0", "") == pages[1].replace("t1@0", "")


def test_the_page_tells_label_strengths_and_quarantine_but_no_private_value(store: Store, tmp_path: Path) -> None:
    facts = described(store, contract_of(CONTRACT, tmp_path), shop())
    assert [period.name for period in facts.periods] == ["2026-01", "2026-02", "2026-03", "2026-04"]
    assert facts.periods[0].shares["true"] < 0.3 < 0.5 < facts.periods[3].shares["true"]
    assert (facts.measure, facts.suspects, facts.sampled) == ("AUC", {}, ROWS)
    assert dict(facts.strongest)["day"] > 0.65
    page = data_report.render(facts)
    assert "secret-" not in page
    assert "not shown: its values are private" in page
    assert "<script" not in page
    assert "&lt;script" in page
    assert "price.min" in page
    assert re.search(r"<b>3</b>rows in quarantine", page)
    assert not re.search(r'(?:src|href)="(?!#)', page), "the page needs nothing from elsewhere"


def test_a_feature_that_is_the_label_is_suspected(store: Store, tmp_path: Path) -> None:
    table = shop()
    copied = shop(city=table.column("late").cast(pa.string()))
    facts = described(store, contract_of(CONTRACT, tmp_path), copied)
    assert facts.suspects == {"city": "is the label under other names"}
    nulls = [None if late and i % 3 else 1.0 for i, late in enumerate(table.column("late").to_pylist())]
    told = described(store, contract_of(CONTRACT, tmp_path), shop(price=pa.array(nulls, pa.float64())))
    assert list(told.suspects) == ["price"]
    assert "where it is missing, 100% of the rows have one label" in data_report.render(told)


ODD: dict[str, dict[str, pa.Array]] = {
    "nulls": {"price": pa.nulls(ROWS, pa.float64()), "city": pa.nulls(ROWS, pa.string()), "day": pa.nulls(ROWS, pa.date32())},
    "infinite": {"price": pa.array([float("inf"), float("-inf"), float("nan")] * (ROWS // 3))},
    "one label": {"late": pa.array([True] * ROWS)},
    "one value": {"price": pa.array([0.0] * ROWS), "city": pa.array([""] * ROWS)},
    "far": {"price": pa.array([1e300, -1e300, 1e-300] * (ROWS // 3)), "day": pa.array([dt.date(1, 1, 1), dt.date(9999, 1, 1)] * 300)},
    "long": {"city": pa.array(["x" * 10_000 + str(i) for i in range(ROWS)])},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_table_is_told_too(store: Store, tmp_path: Path, odd: str) -> None:
    page = data_report.render(described(store, contract_of(CONTRACT, tmp_path), shop(**ODD[odd]).slice(0, 600)))
    assert "Suspected leaks" in page
    assert len(page) < 200_000
    assert ("Not looked for" in page) == (odd == "one label")


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_every_task_has_its_label_over_time(store: Store, tmp_path: Path, task: str) -> None:
    label, kind = ("price", "double") if task == "regression" else ("city", "string")
    text = CONTRACT.replace("task: binary\nlabel: late\npositive: true", f"task: {task}\nlabel: {label}")
    text = text.replace(f"{label}: {{type: {kind}}}", f"{label}: {{type: {kind}, role: label}}").replace(
        "late: {type: bool, role: label, nullable: false}", "late: {type: bool}"
    )
    facts = described(store, contract_of(text, tmp_path), shop())
    assert len(facts.periods) == 4
    assert (facts.periods[0].value is None) == (task == "multiclass")
    assert sum(facts.periods[0].shares.values()) == pytest.approx(0.0 if task == "regression" else 1.0)
    assert "Over time" in data_report.render(facts)


def test_a_table_of_thousands_of_columns_is_a_small_page_that_says_what_it_left_out(store: Store, tmp_path: Path) -> None:
    random, names = np.random.default_rng(2), [f"column_with_a_long_name_{i:05}" for i in range(5_000)]
    label = random.random(60) < 0.5
    wide = {name: pa.array(random.normal(size=60)) for name in names} | {"late": pa.array(label)}
    wide[names[3_777]] = pa.array(label * 2.0)
    columns = "".join(f"  {name}: {{type: double}}\n" for name in names)
    text = f"name: w\ntask: binary\nlabel: late\npositive: true\ncolumns:\n  late: {{type: bool, role: label}}\n{columns}"
    facts = described(store, contract_of(text, tmp_path), pa.table(wide))
    page = data_report.render(facts)
    assert len(page.encode()) < 1_000_000
    assert (len(facts.columns), facts.left_out) == (200, 4_801)
    assert "4,801 more columns are left out" in page
    assert facts.suspects[names[3_777]] == "is the label under other names"
    assert names[3_777] in page


def test_the_report_of_a_version_is_made_from_its_own_rows_and_counts(store: Store) -> None:
    made_by(store, written(store, shop()), RUN)
    newest = written(store, shop().slice(0, 100))
    name, file = data_report.report_of(store, "shop@0", Progress(quiet=True))
    assert (name, file.name) == ("shop@0", "shop@0.html")
    page = file.read_text(encoding="utf-8")
    assert "<b>600</b>rows" in page
    assert "<b>2</b>rows in quarantine" in page
    _, other = data_report.report_of(store, "shop", Progress(quiet=True))
    assert str(newest.digest) in other.read_text(encoding="utf-8")
    assert "rows in quarantine" not in other.read_text(encoding="utf-8"), "no run is known to have made it"


def test_without_a_contract_there_is_no_report(store: Store) -> None:
    written(store, shop())
    with pytest.raises(UsageError, match="under which contract"):
        data_report.report_of(store, "shop", Progress(quiet=True))
    assert open_snapshot(store, "shop").rows == ROWS
