"""The words about versions on the real command: two versions of a table, a run that goes back to the first, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from homes import Home

FAST = ("dataset=orders", "deploy=none")


@pytest.fixture(scope="module")
def orders(home: Home, main_job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two versions of `orders` by their runs, and the run that took version 0 again. With the platform of `main_job` up they start fast."""
    file = tmp_path_factory.mktemp("orders") / "orders.csv"
    frame = pd.DataFrame({"order": range(600), "size": [i * 7 % 40 for i in range(600)], "town": ["Bern", "Rome", "Oslo"] * 200})
    frame["late"] = [(i * 7 % 40) + (i % 11) > 30 for i in range(600)]
    frame.to_csv(file, index=False)
    home.raycycle("init", str(file), "--label", "late", "--name", "orders")
    contract = home.folder / "raycycle-conf" / "contract" / "orders.yaml"
    contract.write_text(contract.read_text(encoding="utf-8") + "\nkey: [order]\n", encoding="utf-8")
    first = home.raycycle("run", *FAST, "--until", "ingest")
    frame.loc[:9, "town"] = "Bonn"
    pd.concat([frame[frame["order"] != 599], frame.tail(2).assign(order=[700, 701])]).to_csv(file, index=False)
    second = home.raycycle("run", *FAST, "--until", "ingest")
    back = home.raycycle("run", *FAST, "snapshot=0", "--until", "prepare")
    return {"first": first, "second": second, "back": back}


def test_a_run_goes_back_to_a_version_and_is_kept_explained_and_listed(home: Home, orders: dict[str, Any]) -> None:
    assert [orders[name]["snapshot"] for name in ("first", "second", "back")] == ["orders@0", "orders@1", "orders@0"]
    again = home.raycycle("run", *FAST, "snapshot=0", "--until", "prepare")
    found = home.raycycle("explain", again["run_id"])
    assert [(stage["stage"], stage["ran"]) for stage in found["stages"]] == [("ingest", False), ("prepare", False)]
    assert found["stages"][0]["inputs"] == {"snapshot": found["data"]["digest"]}
    assert found["data"]["taken"] is True
    said = " ".join(home.process("explain", again["run_id"]).stdout.split())
    assert "taken as it lay (snapshot=N)" in said
    assert home.raycycle("explain", "orders@0")["made_by"] == orders["first"]["run_id"]
    newest, oldest = home.raycycle("data", "snapshots", "orders")["snapshots"]
    assert (newest["version"], newest["rows"], newest["written"]) == (1, 601, "replace")
    assert set(oldest["runs"]) == {orders["first"]["run_id"], orders["back"]["run_id"], again["run_id"]}


def test_a_version_that_is_not_there_is_refused_before_anything_starts(home: Home, orders: dict[str, Any]) -> None:
    error = home.raycycle("run", *FAST, "snapshot=9", code=2, timeout_s=60)["error"]
    assert (error["what"], error["allowed"]) == ("the table 'orders' has no such version", "1, 0")
    assert "snapshot is out of range" in home.raycycle("run", *FAST, "snapshot=-1", code=2)["error"]["what"]


def test_two_versions_are_compared_row_by_row(home: Home, orders: dict[str, Any]) -> None:
    found = home.raycycle("data", "diff", "orders", "0", "1")
    assert (found["added"], found["removed"], found["changed"], found["same"]) == (2, 1, 10, 589)
    assert found["cells"] == {"town": 10}
    assert found["key"] == ["order"]
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "orders@0 → orders@1" in page
    assert home.raycycle("data", "diff", "orders@1", code=2)["error"]["allowed"] == "flights@3 flights@4, or flights 3 4"


def test_a_new_snapshot_has_a_report_and_a_word_makes_it_again(home: Home, orders: dict[str, Any]) -> None:
    of_run = Path(orders["first"]["data_report"])
    assert of_run.parent.name == orders["first"]["run_id"]
    made = home.raycycle("data", "report", "orders@0")
    assert Path(made["page"]).read_bytes() == of_run.read_bytes(), "from the same rows by Ray's tasks and by one process"
    assert Path(orders["back"]["data_report"]).stat().st_size < 1_000_000


def test_what_nobody_needs_goes_only_when_asked_for(home: Home, orders: dict[str, Any]) -> None:
    told = home.raycycle("data", "vacuum", "orders", "--keep", "1")
    assert (told["dry_run"], told["gone"], told["kept"]) == (True, [0], {"1": ["newest"]})
    done = home.raycycle("data", "vacuum", "orders", "--keep", "1", "--yes")
    assert (done["dry_run"], done["gone"], done["bytes"]) == (False, [0], told["bytes"])
    gone = home.raycycle("run", *FAST, "snapshot=0", "--until", "ingest", code=2)["error"]
    assert "orders@0 cannot be read any more: vacuumed on" in gone["what"]
    assert gone["allowed"] == "1"
    assert home.raycycle("data", "snapshots", "orders")["snapshots"][1]["gone"].startswith("vacuumed on")
