"""Each key once, whatever the layout: in how many files the rows were scattered, in which order, and into how many ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from conf.schema import Duplicates
from tables.contract import Column, Contract
from tables.duplicates import HASH, OLD, Once, asked, content, gather, ranges, scatter, settle
from tables.rows import TableDigest

LATEST = Once(columns=("id",), time="at")
FIRST = Once(columns=("id",), rule="unique:id")
EXACT = Once(columns=("id", "at", "what"), whole_row=True)


def table(*rows: tuple[object, object, object]) -> pa.Table:
    kinds = {"id": pa.int64(), "at": pa.float64(), "what": pa.string()}
    columns = zip(kinds.items(), zip(*rows, strict=True) if rows else ((), (), ()), strict=True)
    return pa.table({name: pa.array(values, kind) for (name, kind), values in columns})


def settled(once: Once, tables: list[pa.Table], folder: Path, range_bytes: int = 1 << 20) -> tuple[pa.Table, pa.Table]:
    """What stays and what is lost of these batches."""
    folder.mkdir(exist_ok=True)
    pieces = [scatter(once, rows, folder / f"{index}.arrow") for index, rows in enumerate(tables)]
    lost: list[pa.Table] = []
    stays = [settle(once, gather(pieces, *each), lost.append, range_bytes) for each in ranges(pieces, range_bytes)]
    empty = tables[0].slice(0, 0).append_column(HASH, pa.array([], pa.uint64()))
    return tuple(pa.concat_tables([empty, *(each for each in found if each is not None)]).drop_columns(HASH) for found in (stays, lost))


def test_the_latest_of_a_key_stays(tmp_path: Path) -> None:
    stays, lost = settled(LATEST, [table((1, 5.0, "new"), (2, 1.0, "only")), table((1, 4.0, "old"), (1, None, "unknown"))], tmp_path)
    assert sorted(stays.column("what").to_pylist()) == ["new", "only"]
    assert sorted(lost.column("what").to_pylist()) == ["old", "unknown"]


@pytest.mark.parametrize(("kind", "early", "late"), [(pa.timestamp("us", "UTC"), -5, 0), (pa.date32(), -1, 3), (pa.int64(), -(2**63), 7)])
def test_times_of_every_kind_are_ordered(tmp_path: Path, kind: pa.DataType, early: int, late: int) -> None:
    plain = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    rows = pa.table({"id": [1, 1, 1], "at": pa.array([early, late, None], plain).cast(kind)})
    stays, _ = settled(LATEST, [rows], tmp_path)
    assert stays.column("at").cast(plain).to_pylist() == [late]


def test_a_row_without_its_key_is_like_no_other_unless_the_whole_row_is_the_key(tmp_path: Path) -> None:
    rows = table((None, 1.0, "a"), (None, 1.0, "a"))
    assert settled(LATEST, [rows], tmp_path / "latest")[0].num_rows == 2
    assert settled(EXACT, [rows], tmp_path / "exact")[0].num_rows == 1


def test_of_rows_as_late_as_each_other_the_content_decides(tmp_path: Path) -> None:
    rows = [table((1, 5.0, "a")), table((1, 5.0, "b")), table((1, 5.0, "c"))]
    one, other = settled(LATEST, rows, tmp_path / "one")[0], settled(LATEST, rows[::-1], tmp_path / "other")[0]
    assert one.num_rows == 1
    assert one.equals(other)


def test_rows_of_the_table_come_before_new_ones_where_uniqueness_was_promised(tmp_path: Path) -> None:
    rows = table((1, 1.0, "a"), (1, 2.0, "b"), (1, 3.0, "c"))
    for old in range(3):
        marked = rows.append_column(OLD, pa.array([index == old for index in range(3)]))
        stays, lost = settled(FIRST, [marked], tmp_path / str(old))
        assert stays.column(OLD).to_pylist() == [True]
        assert lost.num_rows == 2


def test_where_a_row_was_read_does_not_decide(tmp_path: Path) -> None:
    rows = table((1, 1.0, "a"), (1, 2.0, "b"))
    origins = [pa.array(["x", "y"]), pa.array(["y", "x"])]
    kept = [settled(FIRST, [rows.append_column("_file", each)], tmp_path / str(i))[0] for i, each in enumerate(origins)]
    assert kept[0].column("what") == kept[1].column("what")
    assert content(kept[0]) == ["id", "at", "what"]


def test_other_rows_with_the_same_hash_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tables.duplicates.row_hashes", lambda table, columns: np.zeros(table.num_rows, np.uint64))
    stays, lost = settled(FIRST, [table((1, 1.0, "a"), (2, 1.0, "b"), (3, 1.0, "c"))], tmp_path)
    assert (stays.num_rows, lost.num_rows) == (3, 0)


def test_one_heavy_key_is_forgotten_on_the_way(tmp_path: Path) -> None:
    """All rows fall into one range: what is held must not grow with them."""
    rows = [table(*((7, float(number), "x" * 50) for number in range(start, start + 100))) for start in range(0, 3000, 100)]
    pieces = [scatter(LATEST, each, tmp_path / f"{index}") for index, each in enumerate(rows)]
    (whole,) = [each for each in ranges(pieces, 20_000) if list(gather(pieces, *each))]
    lost: list[int] = []
    stays = settle(LATEST, gather(pieces, *whole), lambda table: lost.append(table.num_rows), 20_000)
    assert stays is not None
    assert stays.column("at").to_pylist() == [2999.0]
    assert sum(lost) == 2999
    assert max(lost) < 500


@given(
    rows=st.lists(st.tuples(st.integers(0, 12) | st.none(), st.sampled_from([0.0, 1.5, 2.0, None]), st.sampled_from("abc")), max_size=60),
    files=st.integers(1, 5),
    once=st.sampled_from([LATEST, FIRST, EXACT]),
    seed=st.integers(0, 9),
)
def test_the_layout_makes_no_difference(
    rows: list[tuple[int | None, float | None, str]], files: int, once: Once, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("layout")
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    stays, lost = settled(once, [table(*rows)], folder / "one")
    again, gone = settled(once, [table(*shuffled[start::files]) for start in range(files)], folder / "other", range_bytes=700)
    assert TableDigest.of(stays) == TableDigest.of(again)
    assert TableDigest.of(lost) == TableDigest.of(gone)
    keys = [tuple(row[name] for name in once.columns) for row in stays.to_pylist()]
    known = [key for key in keys if once.whole_row or None not in key]
    assert len(known) == len(set(known))
    assert {each["id"] for each in stays.to_pylist()} == {row[0] for row in rows}


def contract(**columns: str) -> Contract:
    return Contract(name="c", task="binary", label="y", columns={name: Column(type=kind) for name, kind in columns.items()})  # type: ignore[arg-type]


def test_what_the_dataset_asks_comes_before_what_the_contract_promises() -> None:
    found = asked(contract(id="int64", at="date", y="bool"), Duplicates(by=["id"], time="at"))
    assert found == (Once(columns=("id",), time="at"),)
    assert asked(contract(id="int64", y="bool"), Duplicates()) == (Once(columns=("id", "y"), whole_row=True),)
    assert asked(contract(id="int64"), None) == ()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"by": ["idd"], "time": "at"}, r"names no column \(did you mean 'id'\?\): 'idd'"),
        ({"by": ["id"], "time": "name"}, "does not say which row is the latest: 'name'"),
        ({"by": ["id"]}, "does not say which row is the latest"),
    ],
)
def test_columns_that_cannot_serve_are_named(settings: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        asked(contract(id="int64", at="timestamp", name="string", y="bool"), Duplicates(**settings))


@pytest.mark.parametrize("settings", [{"by": "id"}, {"by": []}, {"by": ["id"], "keep": "first"}, {"time": "at"}])
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"dataset\.duplicates\."):
        Duplicates(**settings)
