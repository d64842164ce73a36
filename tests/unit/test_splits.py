"""Rows are assigned by what they are, never by where they stand."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from tables import splits
from tables.contract import Column, Contract
from tables.rows import row_hashes
from tables.splits import HOLDOUT, LATER, TRAIN, VALID, HashSplit, TimeSplit, row_keys


def contract(task: str = "binary", **columns: str) -> Contract:
    typed = {name: Column(type=kind) for name, kind in columns.items()}  # type: ignore[arg-type]
    return Contract(name="t", task=task, label="y", columns={**typed, "y": Column(type="string", role="label")})  # type: ignore[arg-type]


def keys(count: int) -> np.ndarray:
    return row_hashes(pa.table({"id": range(count)}), ["id"], "key")


def labelled(classes: list[str | None]) -> pa.Table:
    return pa.table({"id": range(len(classes)), "y": pa.array(classes, pa.string())})


def parts(split: HashSplit, table: pa.Table) -> np.ndarray:
    key = row_hashes(table, ["id"], "key")
    return split.fitted(key, table.column("y").combine_chunks()).assign(table, key, "y")


def test_time_bounds_belong_to_the_newer_part_and_rows_without_a_time_are_the_newest() -> None:
    split = TimeSplit(column="m", valid_from=6, holdout_from=7, later_from=8)
    table = pa.table({"m": [1, 5, 6, 7, 8, 12, None]})
    assert split.assign(table, keys(7), "y").tolist() == [TRAIN, TRAIN, VALID, HOLDOUT, LATER, LATER, LATER]
    without_later = TimeSplit(column="m", valid_from=6, holdout_from=7)
    assert without_later.assign(table, keys(7), "y").tolist()[-2:] == [HOLDOUT, HOLDOUT]


def test_dates_and_moments_written_as_text_are_bounds() -> None:
    days = pa.table({"d": [dt.date(2020, 1, 31), dt.date(2020, 2, 1), dt.date(2020, 3, 1)]})
    split = TimeSplit(column="d", valid_from="2020-02-01", holdout_from="2020-03-01")
    assert split.assign(days, keys(3), "y").tolist() == [TRAIN, VALID, HOLDOUT]
    moments = pa.table(
        {
            "d": pa.array(
                [dt.datetime(2020, 1, 31, 23, 59, tzinfo=dt.UTC), dt.datetime(2020, 2, 1, tzinfo=dt.UTC)], pa.timestamp("us", "UTC")
            )
        }
    )
    assert split.assign(moments, keys(2), "y").tolist() == [TRAIN, VALID]
    east = TimeSplit(column="d", valid_from="2020-02-01T00:00:00+01:00", holdout_from="2020-03-01")
    assert east.assign(moments, keys(2), "y").tolist() == [VALID, VALID]


@pytest.mark.parametrize(
    ("kind", "bounds", "said"),
    [
        ("int64", (7, 7), "must rise"),
        ("int64", (8, 7), "must rise"),
        ("date", ("2020-02-01", "2020-01-31"), "must rise"),
        ("int64", ("June", 7), "do not fit"),
        ("date", ("2020-13-01", "2021-01-01"), "do not fit"),
        ("timestamp", ("soon", "later"), "do not fit"),
    ],
)
def test_time_bounds_that_cannot_work_are_refused_before_any_row(kind: str, bounds: tuple, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TimeSplit(column="m", valid_from=bounds[0], holdout_from=bounds[1]).check(contract(m=kind))


def test_columns_of_a_split_must_be_there() -> None:
    with pytest.raises(UsageError, match="not in the contract"):
        TimeSplit(column="n", valid_from=1, holdout_from=2).check(contract(m="int64"))
    with pytest.raises(UsageError, match="not in the contract"):
        HashSplit(by="n").check(contract(m="int64"))


@pytest.mark.parametrize("shares", [{"valid": 0}, {"holdout": 1}, {"valid": 0.5, "holdout": 0.5}])
def test_shares_that_leave_a_part_empty_are_refused(shares: dict) -> None:
    with pytest.raises(UsageError):
        HashSplit(**shares)


def test_a_number_has_no_classes_to_stratify_by() -> None:
    with pytest.raises(UsageError, match="needs classes"):
        HashSplit().check(contract("regression", x="double"))
    HashSplit(stratify=False).check(contract("regression", x="double"))


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=3, max_size=200), st.integers(0, 99))
def test_a_small_table_gives_each_class_its_exact_share_in_any_order(classes: list[str], seed: int) -> None:
    table = labelled(classes)
    found = parts(HashSplit(), table)
    for each, count in Counter(classes).items():
        mine = found[np.array(classes) == each]
        held = min(round(0.2 * count), count - 1)
        assert (mine == HOLDOUT).sum() == held
        assert (mine == VALID).sum() == min(round(0.36 * count), count - 1) - held
        assert (mine == TRAIN).any()
    order = np.random.default_rng(seed).permutation(len(classes))
    assert (parts(HashSplit(), table.take(pa.array(order))) == found[order]).all()


def test_rows_without_a_label_do_not_stop_a_split() -> None:
    found = parts(HashSplit(), labelled(["a", None, "b"] * 30))
    assert set(found.tolist()) == {TRAIN, VALID, HOLDOUT}


def test_equal_rows_lie_on_one_side() -> None:
    table = pa.table({"id": [i // 5 for i in range(200)], "y": ["a"] * 200})
    found = parts(HashSplit(stratify=False), table).reshape(40, 5)
    assert (found == found[:, :1]).all()


def test_a_group_lies_on_one_side_whatever_its_rows() -> None:
    table = pa.table({"id": range(900), "g": [f"g{i % 300}" for i in range(900)], "y": ["a", "b", "b"] * 300})
    found = parts(HashSplit(by="g"), table)
    assert (found.reshape(3, 300) == found[:300]).all()
    assert np.bincount(found[:300], minlength=3) / 300 == pytest.approx([0.64, 0.16, 0.2], abs=0.08)


def test_a_large_table_keeps_its_shares_without_looking_at_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "RANKED_ROWS", 1_000)
    table = labelled(["a", "b"] * 10_000)
    split = HashSplit()
    assert split.fitted(keys(20_000), table.column("y").combine_chunks()) is split
    assert np.bincount(parts(split, table)) / 20_000 == pytest.approx([0.64, 0.16, 0.2], abs=0.01)


def test_a_row_keeps_its_part_when_other_rows_come() -> None:
    many = labelled(["a", "b"] * 500)
    split = HashSplit().fitted(keys(1000), many.column("y").combine_chunks())
    whole = split.assign(many, keys(1000), "y")
    assert (split.assign(many.slice(300, 50), keys(1000)[300:350], "y") == whole[300:350]).all()


@given(st.lists(st.none() | st.sampled_from(["a", "b", "c"]), min_size=1, max_size=60), st.sampled_from([True, False]), st.data())
def test_a_row_lies_on_one_side_whatever_the_order_and_layout(classes: list[str | None], stratify: bool, data: st.DataObject) -> None:
    table = labelled(classes)
    mixed = table.take(pa.array(data.draw(st.permutations(range(len(classes))))))
    split = HashSplit(stratify=stratify)
    fitted = [split.fitted(row_hashes(each, ["id"], "key"), each.column("y").combine_chunks()) for each in (table, mixed)]
    assert fitted[0] == fitted[1]
    cut = data.draw(st.integers(0, len(classes)))
    pieces = [mixed.slice(0, cut), mixed.slice(cut)]
    assigned = np.concatenate([fitted[0].assign(each, row_hashes(each, ["id"], "key"), "y") for each in pieces])
    assert assigned.tolist() == parts(split, table)[np.asarray(mixed["id"])].tolist()


def test_a_row_is_known_by_its_key_or_else_by_all_of_it() -> None:
    table = pa.table({"a": [1, 1], "b": [1, 2], "y": ["x", "x"]})
    whole = contract(a="int64", b="int64")
    assert len(set(row_keys(table, whole))) == 2
    assert len(set(row_keys(table, msgspec.structs.replace(whole, key=["a"])))) == 1
