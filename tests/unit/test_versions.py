"""The versions of a table as they are listed, taken by a run, and cleared away: nothing that somebody needs ever goes."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from tables_in import CONTRACT, made_by, written

from cluster.store import Store, write_json
from conf.errors import UsageError
from flows import versions
from flows.travel import taken
from flows.vacuum import vacuum
from ledger.registry import Registered
from ledger.stages import StageCache
from tables.contract import Contract
from tables.privacy.treatment import treated_contract
from tables.snapshots import open_snapshot, read

RUNS = [f"{number}a" * 16 for number in range(6)]


def table(price: float) -> pa.Table:
    rows = [{"id": i, "day": None, "price": price, "city": "Bern", "email": "x", "late": i % 2 == 0} for i in range(4)]
    types = [("id", pa.int64()), ("day", pa.date32()), ("price", pa.float64()), ("city", pa.string()), ("email", pa.string())]
    return pa.Table.from_pylist(rows, pa.schema([*types, ("late", pa.bool_())]))


class Models:
    """A registry of what a test says is registered."""

    def __init__(self, *found: Registered) -> None:
        self.found = found

    def names(self) -> list[str]:
        return sorted({each.name for each in self.found})

    def versions(self, name: str) -> list[Registered]:
        return [each for each in self.found if each.name == name]


def model(number: int, run_id: str) -> Registered:
    return Registered("shop", number, "d" * 64, Path(), run_id, True, ("champion",))


def of_run(store: Store, run: int, price: float, **more: object) -> None:
    made_by(store, written(store, table(price)), RUNS[run], **more)  # type: ignore[arg-type]


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    (tmp_path / "shop.yaml").write_text(CONTRACT, encoding="utf-8")
    return treated_contract(Contract.load(tmp_path / "shop.yaml"))


def test_versions_tell_how_they_were_written_what_changed_and_who_used_them(store: Store) -> None:
    of_run(store, 0, 1.0, version=1)
    written(store, table(2.0).append_column("size", pa.array([1, 2, 3, 4])), mode="append")
    made_by(store, open_snapshot(store, "shop", 0), RUNS[1], taken=True)
    newest, widened, first = versions.versions(store, "shop")
    assert [each.written for each in (first, widened, newest)] == ["replace", "schema", "append"]
    assert (first.rows, newest.rows, len(newest.files)) == (4, 8, 2)
    assert widened.changes == ["size was added (int64)"]
    assert newest.changes == []
    assert (set(first.runs), first.models, newest.runs) == ({RUNS[0], RUNS[1]}, ["shop/1"], [])
    said = "\n".join(versions.lines([newest, widened, first]))
    assert "columns: size was added (int64)" in said
    assert "2 runs -> shop/1" in said
    assert newest.as_json()["size"] == newest.size > 0


def test_what_a_run_changed_of_the_columns_is_told_and_what_was_before_it_is_not(store: Store) -> None:
    written(store, table(1.0))
    before, after = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=9), dt.datetime.now(dt.UTC) + dt.timedelta(seconds=9)
    assert versions.columns_changed(store, "shop", before) == []
    written(store, table(2.0).append_column("size", pa.array([1, 2, 3, 4])), mode="append")
    assert versions.columns_changed(store, "shop", before) == ["size was added (int64)"]
    assert versions.columns_changed(store, "shop", after) == versions.columns_changed(store, "none", before) == []


def test_an_unknown_table_is_named_with_the_close_one(store: Store) -> None:
    written(store, table(1.0))
    with pytest.raises(UsageError, match="did you mean 'shop'"):
        versions.versions(store, "shpo")


@pytest.mark.parametrize(
    ("words", "found"), [(["a@1", "b"], ("a@1", "b")), (["a", "1", "2"], ("a@1", "a@2")), (["a", "2"], None), (["a"], None)]
)
def test_two_snapshots_as_a_person_writes_them(words: list[str], found: tuple[str, str] | None) -> None:
    if found is None:
        with pytest.raises(UsageError, match="not two snapshots"):
            versions.pair(words)
    else:
        assert versions.pair(words) == found


@pytest.mark.parametrize("reference", ["shop@-1", "shop@1@2", "../shop", "shop@x", "", "shop@3"])
def test_what_names_no_snapshot_is_refused(store: Store, reference: str) -> None:
    written(store, table(1.0))
    with pytest.raises(UsageError):
        versions.opened(store, reference)


def test_a_version_is_taken_as_it_lies(store: Store, contract: Contract) -> None:
    first = written(store, table(1.0))
    written(store, table(2.0))
    made = taken(store, "shop", 0, contract)
    assert made.snapshot == first
    assert (made.quarantined, made.quarantine) == ({}, None)


def test_what_cannot_be_taken_is_refused_with_what_can(store: Store, contract: Contract) -> None:
    for price in (1.0, 2.0, 3.0):
        written(store, table(price))
    written(store, table(3.0).rename_columns(["id", "day", "cost", "city", "email", "late"]))
    with pytest.raises(UsageError, match="no such version") as caught:
        taken(store, "shop", 9, contract)
    assert caught.value.allowed == "3, 2, 1, 0"
    with pytest.raises(UsageError, match="lacks columns of the contract") as caught:
        taken(store, "shop", 3, contract)
    assert caught.value.value == "price (double)"
    next(iter(set(open_snapshot(store, "shop", 1).paths))).unlink()
    with pytest.raises(UsageError, match="shop@1 cannot be read any more: 1 of its 1 files is gone") as caught:
        taken(store, "shop", 1, contract)
    assert caught.value.allowed == "3, 2, 0"


def test_a_vacuum_keeps_what_anybody_needs_and_tells_why(store: Store, contract: Contract) -> None:
    of_run(store, 0, 1.0, version=1)
    of_run(store, 1, 2.0, version=2)
    of_run(store, 2, 3.0, status="RUNNING", started="2999-01-01T00:00:00+00:00", ended=None)
    of_run(store, 3, 4.0)
    of_run(store, 4, 5.0)
    write_json(store.root / "releases.json", {"format": 1, "models": {"shop": {"version": 2, "previous": None}}})
    registry = Models(model(1, RUNS[0]))
    told = vacuum(store, registry, "shop", 1)
    assert told.plan.gone == (3,)
    assert {version: why[0].split(" (")[0] for version, why in told.plan.kept.items()} == {
        4: "newest",
        2: f"run {RUNS[2][:12]}",
        1: "shop/2 answers",
        0: "model shop/1",
    }
    assert told.plan.size == versions.versions(store, "shop")[1].size
    assert "nothing was removed: --yes does it" in told.lines()[-1]
    assert len(read(open_snapshot(store, "shop", 3).files[0])) == 4
    cache = StageCache(store, "shop", lambda text: None)
    assert len(cache.all("ingest")) == 5
    done = vacuum(store, registry, "shop", 1, dry_run=False)
    assert done.plan.gone == (3,)
    assert {read(open_snapshot(store, "shop", version).files[0]).num_rows for version in (0, 1, 2, 4)} == {4}
    assert len(cache.all("ingest")) == 4, "a run must not take a version that is gone"
    with pytest.raises(UsageError, match="cannot be read any more: vacuumed on"):
        taken(store, "shop", 3, contract)
    assert vacuum(store, registry, "shop", 1).lines()[-1] == "nothing would go"


def test_a_model_whose_run_is_gone_may_need_any_version(store: Store) -> None:
    for run, price in enumerate((1.0, 2.0)):
        of_run(store, run, price)
    found = vacuum(store, Models(model(1, "f" * 32)), "shop", 1)
    assert found.plan.gone == ()
    assert "whose version is not known" in found.plan.kept[0][0]
    other = replace(model(1, "f" * 32), name="planes")
    assert vacuum(store, Models(other), "shop", 1).plan.gone == (0,)


def test_a_replay_under_way_keeps_its_version(store: Store) -> None:
    for run, price in enumerate((1.0, 2.0)):
        of_run(store, run, price)
    (store.jobs / f"reproduce-{RUNS[0][:12]}-4711").mkdir()
    assert vacuum(store, Models(), "shop", 1).plan.kept[0] == (f"replay of run {RUNS[0][:12]}",)
    with pytest.raises(UsageError, match="--keep"):
        vacuum(store, Models(), "shop", 0)
