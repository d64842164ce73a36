"""A replay that came out otherwise: which column, which row, and both values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.store import Store
from flows import comparison
from flows.certificate import Difference
from flows.comparison import ABSENT, Sides
from flows.evaluation import Evaluation, Quality
from flows.gates import Verdict
from flows.leaks import Probe
from flows.prepared import Prepared, Rows
from flows.sweep import Swept
from flows.trial import Trial
from tables import snapshots
from tables.contract import Column, Contract
from tables.encoder import Encoder, NumericSpec
from tables.features import Feature
from tables.rows import sort_order
from tables.snapshots import Snapshot
from tables.splits import HashSplit, row_keys
from tables.target import Target
from trainers.protocol import Matrix

CONTRACT = Contract(
    name="flights",
    task="binary",
    label="late",
    key=["carrier", "number"],
    columns={
        "carrier": Column(type="string", role="key"),
        "number": Column(type="int64", role="key"),
        "wind": Column(type="double"),
        "rain": Column(type="double"),
        "origin": Column(type="string", role="observed"),
        "late": Column(type="double", role="label"),
    },
)
KEYLESS = Contract(name="flights", task="binary", label="late", columns=CONTRACT.columns)
COUNT = 12
TABLE = pa.table(
    {
        "carrier": ["UA", "AA"] * (COUNT // 2),
        "number": pa.array(range(COUNT), pa.int64()),
        "wind": [0.5 * n for n in range(COUNT)],
        "rain": [0.0, -0.0, math.nan] * (COUNT // 3),
        "origin": ["JFK", None, "EWR"] * (COUNT // 3),
        "late": [float(n % 2) for n in range(COUNT)],
    }
)
PARTS = {"train": slice(0, 6), "valid": slice(6, 9), "holdout": slice(9, 12)}
Change = Callable[[pa.Table], pa.Table]


def planted(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    values = table.column(column).to_pylist()
    values[row] = value
    at = table.column_names.index(column)
    return table.set_column(at, column, pa.array(values, table.schema.field(column).type))


def key(row: int, contract: Contract = CONTRACT) -> dict[str, Any]:
    return {name: TABLE.column(name)[row].as_py() for name in contract.key or contract.columns}


@pytest.fixture(params=[CONTRACT, KEYLESS], ids=["key", "no key"])
def contract(request: pytest.FixtureRequest) -> Contract:
    return request.param  # type: ignore[no-any-return]


def snapshot(store: Store, table: pa.Table = TABLE, contract: Contract = CONTRACT) -> Snapshot:
    folder = snapshots.table_folder(store, "flights")
    parts = [snapshots.write_part(folder, piece) for piece in (table.slice(0, 5), table.slice(5))]
    return snapshots.commit(store, "flights", contract.schema(), parts)


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def check(found: Difference | None, what: str, column: str | None, row_key: Any, recorded: Any, replayed: Any) -> None:
    assert found is not None
    assert (found.what, found.column, found.row_key) == (what, column, row_key)
    assert same(found.recorded, recorded)
    assert same(found.replayed, replayed)


# A snapshot against its source


SNAPSHOTS = "snapshot as it lies (first) against its source"


@pytest.mark.parametrize(("column", "row", "value"), [("wind", 7, 9.25), ("origin", 1, "LGA"), ("origin", 0, None), ("late", 11, 0.0)])
def test_a_changed_cell_of_the_snapshot_is_found(store: Store, tmp_path: Path, column: str, row: int, value: Any) -> None:
    lying = snapshot(store, planted(TABLE, column, row, value))
    fresh = snapshot(Store.open(tmp_path / "other"), TABLE.take(list(reversed(range(COUNT)))))
    found = comparison.of_snapshots(lying, fresh, CONTRACT)
    check(found, SNAPSHOTS, column, key(row), value, TABLE.column(column)[row].as_py())
    assert comparison.of_snapshots(fresh, fresh, CONTRACT) is None


def test_a_cell_that_was_changed_in_its_file_is_found_though_the_file_no_longer_fits_its_digest(store: Store, tmp_path: Path) -> None:
    lying, fresh = snapshot(store), snapshot(Store.open(tmp_path / "other"))
    file = next(file.path for file in lying.files if pq.read_metadata(file.path).num_rows == 5)
    pq.write_table(planted(TABLE.slice(0, 5), "wind", 3, -1.0), file)
    check(comparison.of_snapshots(lying, fresh, CONTRACT), SNAPSHOTS, "wind", key(3), -1.0, 1.5)


def test_a_row_of_one_snapshot_only_is_found(store: Store, tmp_path: Path, contract: Contract) -> None:
    less, whole = snapshot(store, TABLE.slice(0, 8), contract), snapshot(Store.open(tmp_path / "other"), TABLE.slice(0, 9), contract)
    row = TABLE.slice(8, 1).to_pylist()[0]
    shown = Difference("", "", None, key(8, contract), ABSENT, row)
    check(comparison.of_snapshots(less, whole, contract), SNAPSHOTS, None, shown.row_key, ABSENT, shown.replayed)
    check(comparison.of_snapshots(whole, less, contract), SNAPSHOTS, None, shown.row_key, shown.replayed, ABSENT)


# What prepare made


def prepared(
    folder: Path, table: pa.Table = TABLE, contract: Contract = CONTRACT, names: tuple[str, ...] = ("wind", "rain"), **parts: slice
) -> Path:
    encoder = Encoder([NumericSpec(name, 0.0, False) for name in names], {})
    made = {}
    for name, rows in (PARTS | parts).items():
        mine = table.slice(rows.start, rows.stop - rows.start)
        keys = row_keys(TABLE.slice(rows.start, rows.stop - rows.start), contract)
        order = sort_order(keys, keys)
        mine = mine.take(pa.array(order))
        x = np.column_stack([np.asarray(mine.column(each)).astype(np.float32) for each in names])
        judged = mine.select(["wind", "origin"]) if name in ("holdout", "later") else pa.table({})
        made[name] = Rows(Matrix(x, np.asarray(mine.column("late")), encoder.features), keys[order], judged)
    folder.mkdir(parents=True)
    Prepared(contract, encoder, Target("binary", ("0", "1")), made, {}, 0.5, 0, HashSplit()).save(folder)
    return folder


def of_prepared(store: Store, recorded: Path, replayed: Path, contract: Contract = CONTRACT) -> Difference | None:
    return comparison.of_prepared(Sides(recorded, replayed), [], snapshot(store, contract=contract))


@pytest.mark.parametrize(
    ("column", "row", "value", "what"),
    [
        ("wind", 2, 7.5, "train matrix, feature wind"),
        ("rain", 8, 1.0, "valid matrix, feature rain"),
        ("rain", 9, -0.0, "holdout matrix, feature rain"),
        ("wind", 10, math.nan, "holdout matrix, feature wind"),
        ("late", 4, 1.0, "train label"),
        ("origin", 9, "LGA", "holdout rows"),
        ("origin", 11, None, "holdout rows"),
    ],
)
def test_a_changed_feature_label_or_judged_cell_is_found(
    store: Store, tmp_path: Path, column: str, row: int, value: Any, what: str, contract: Contract
) -> None:
    one, other = prepared(tmp_path / "one", contract=contract), prepared(tmp_path / "two", planted(TABLE, column, row, value), contract)
    # As the certificate shows them: NaN is text, and a key may hold dates.
    shown = Difference("", "", None, key(row, contract), TABLE.column(column)[row].as_py(), value)
    check(of_prepared(store, one, other, contract), what, column, shown.row_key, shown.recorded, shown.replayed)
    assert of_prepared(store, one, prepared(tmp_path / "again", contract=contract), contract) is None


def test_a_row_in_another_part_is_found(store: Store, tmp_path: Path) -> None:
    one = prepared(tmp_path / "one")
    for name, bounds, row in (
        ("two", {"train": slice(0, 5)}, 5),
        ("three", {"valid": slice(6, 8)}, 8),
        ("four", {"holdout": slice(9, 11)}, 11),
    ):
        part = next(iter(bounds))
        other = prepared(tmp_path / name, **bounds)
        check(of_prepared(store, one, other), f"rows of the part {part}", None, key(row), "present", ABSENT)
        check(of_prepared(store, other, one), f"rows of the part {part}", None, key(row), ABSENT, "present")


def test_a_part_that_only_one_side_has_is_found(store: Store, tmp_path: Path) -> None:
    one, other = prepared(tmp_path / "one", holdout=slice(9, 11)), prepared(tmp_path / "two", holdout=slice(9, 11), later=slice(11, 12))
    check(of_prepared(store, one, other), "rows of the part later", None, key(11), ABSENT, "present")
    check(of_prepared(store, other, one), "rows of the part later", None, key(11), "present", ABSENT)


def test_features_that_only_one_side_has_are_found(store: Store, tmp_path: Path) -> None:
    one, other = prepared(tmp_path / "one"), prepared(tmp_path / "two", names=("wind",))
    check(of_prepared(store, one, other), "features", "rain", None, "rain", ABSENT)
    check(of_prepared(store, other, one), "features", "rain", None, ABSENT, "rain")
    check(of_prepared(store, one, prepared(tmp_path / "three", names=("rain", "wind"))), "features", "wind", None, "wind", "rain")


def test_a_key_that_stands_on_more_rows_is_found_with_its_counts() -> None:
    one, other = np.array([1, 2, 2, 5], np.uint64), np.array([1, 2, 2, 2, 5], np.uint64)
    assert comparison._unequal_keys(one, other) == (2, "2 rows", "3 rows")
    assert comparison._unequal_keys(other, one) == (2, "3 rows", "2 rows")
    assert comparison._unequal_keys(one, one[:3]) == (5, "present", ABSENT)
    assert comparison._unequal_keys(one[:0], one[:2]) == (1, ABSENT, "present")
    assert comparison._unequal_keys(one, one.copy()) is None
    assert comparison._unequal_keys(one[:0], one[:0]) is None


def test_a_row_that_the_snapshot_does_not_have_is_named_by_the_hash_of_its_key(store: Store) -> None:
    assert comparison._key(snapshot(store), CONTRACT, np.uint64(7)) == {"key hash": "7"}


# Trials


def trial(number: int, **changed: Any) -> Trial:
    facts: dict[str, Any] = {
        "number": number,
        "family": "xgboost",
        "params": {"max_depth": 6, "rate": 0.1},
        "log_target": False,
        "status": "finished",
        "loss": 0.5,
        "metrics": {"log_loss": 0.5, "roc_auc": math.nan},
        "threshold": 0.43,
        "steps": 20,
        "rungs": {0.1: 0.6},
        "seconds": 1.0,
    }
    return Trial(**(facts | changed))


def swept(folder: Path, *trials: Trial) -> Path:
    folder.mkdir(parents=True)
    Swept(trials, trials[0], "log_loss", 1, 0).save(folder)
    return folder


@pytest.mark.parametrize(
    ("changed", "what", "recorded", "replayed"),
    [
        ({"loss": 0.5 + 1e-16}, "loss", 0.5, 0.5000000000000001),
        ({"loss": math.inf}, "loss", 0.5, "inf"),
        ({"params": {"max_depth": 6, "rate": 0.2}}, "params.rate", 0.1, 0.2),
        ({"params": {"max_depth": 6.0, "rate": 0.1}}, "params.max_depth", 6, 6.0),
        ({"params": {"max_depth": 6}}, "params.rate", 0.1, ABSENT),
        ({"metrics": {"log_loss": 0.5, "roc_auc": 0.5}}, "metrics.roc_auc", "nan", 0.5),
        ({"rungs": {0.1: 0.6, 0.3: 0.5}}, "rungs.0.3", ABSENT, 0.5),
        ({"steps": None}, "steps", 20, None),
        ({"status": "stopped", "reason": "behind"}, "status", "finished", "stopped"),
    ],
)
def test_a_changed_trial_is_found(tmp_path: Path, changed: dict[str, Any], what: str, recorded: Any, replayed: Any) -> None:
    one = swept(tmp_path / "one", trial(0), trial(1), trial(2))
    other = swept(tmp_path / "two", trial(0), trial(1, **changed), trial(2, loss=0.7))
    check(comparison.of_swept(Sides(one, other)), f"trial 1 {what}", None, None, recorded, replayed)


def test_when_and_where_a_trial_ran_makes_no_difference(tmp_path: Path) -> None:
    one = swept(tmp_path / "one", trial(0), trial(1))
    other = swept(tmp_path / "two", trial(0, seconds=9.0), trial(1, started=5.0, worker="77"))
    assert comparison.of_swept(Sides(one, other)) is None


def test_trials_of_another_number_are_found(tmp_path: Path) -> None:
    two, three = swept(tmp_path / "two", trial(0), trial(1)), swept(tmp_path / "three", trial(0), trial(1), trial(2))
    check(comparison.of_swept(Sides(two, three)), "trial 2 number", None, None, ABSENT, 2)
    check(comparison.of_swept(Sides(three, two)), "trial 2 number", None, None, 2, ABSENT)


# What was found out about the candidate


def evaluation(folder: Path, **changed: Any) -> Path:
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]])
    quality = Quality(3, {"log_loss": 0.5, "roc_auc": math.nan}, {"log_loss": (0.4, 0.6)})
    facts: dict[str, Any] = {
        "bundle": folder / "bundle",
        "digest": "d1",
        "trial": trial(0),
        "params": {},
        "target": Target("multiclass", ("a", "b", "c")),
        "holdout": quality,
        "constant": {"log_loss": 0.7},
        "champion": None,
        "champion_name": "",
        "later": {"8": quality},
        "slices": {"origin": {"JFK": quality, "EWR": quality}},
        "calibration": [],
        "importance": {"wind": 0.6, "rain": 0.4},
        "leaks": Probe("multiclass", ((Feature("wind", "numeric", "wind"), 0.6),), ()),
        "verdicts": (Verdict("min_metric", True, math.nan, 0.1, "fine"), Verdict("min_metric", True, 0.5, 0.1, "fine")),
        "y": np.array([0.0, 1, 2]),
        "scores": scores,
    }
    folder.mkdir(parents=True)
    Evaluation(**(facts | changed)).save(folder)
    return folder


def of_evaluations(store: Store, folder: Path, **changed: Any) -> Difference | None:
    sides = Sides(evaluation(folder / "one"), evaluation(folder / "two", **changed))
    return comparison.of_evaluations(sides, prepared(folder / "prepared"), [], snapshot(store))


def holdout_row(at: int) -> int:
    """The row of the table that stands `at` this place of the holdout, which is in the order of its keys' hashes."""
    keys = row_keys(TABLE.slice(9, 3), CONTRACT)
    return 9 + int(sort_order(keys, keys)[at])


def test_equal_evaluations_have_no_difference(store: Store, tmp_path: Path) -> None:
    assert of_evaluations(store, tmp_path) is None


@pytest.mark.parametrize("answer", [[0.1, 0.1, 0.8], [0.1, 0.8, 0.1 + 1e-16], [0.1, math.nan, 0.1], [0.8, 0.1, 0.1]])
def test_a_row_that_is_answered_otherwise_is_found_even_where_its_scores_have_the_same_sum(
    store: Store, tmp_path: Path, answer: list[float]
) -> None:
    scores = np.array([[0.7, 0.2, 0.1], answer, [0.3, 0.2, 0.5]])
    found = of_evaluations(store, tmp_path, scores=scores)
    shown = Difference("", "", None, None, 0, answer).replayed
    check(found, "answers on the holdout", "score", key(holdout_row(1)), [0.1, 0.8, 0.1], shown)


def test_a_binary_answer_is_found_too(store: Store, tmp_path: Path) -> None:
    one, other = np.array([0.5, 0.0, 0.7]), np.array([0.5, -0.0, 0.7])
    sides = Sides(evaluation(tmp_path / "one", scores=one), evaluation(tmp_path / "two", scores=other))
    found = comparison.of_evaluations(sides, prepared(tmp_path / "prepared"), [], snapshot(store))
    check(found, "answers on the holdout", "score", key(holdout_row(1)), 0.0, -0.0)


def test_a_changed_label_of_the_holdout_is_found(store: Store, tmp_path: Path) -> None:
    found = of_evaluations(store, tmp_path, y=np.array([0.0, 1, 1]))
    check(found, "label of the holdout", "late", key(holdout_row(2)), 2.0, 1.0)


FINE = Verdict("min_metric", True, math.nan, 0.1, "fine")
LOW = Verdict("min_metric", False, 0.5, 0.6, "low")
QUALITY = Quality(3, {"log_loss": 0.5, "roc_auc": math.nan}, {"log_loss": (0.4, 0.6)})


@pytest.mark.parametrize(
    ("changed", "what", "recorded", "replayed"),
    [
        ({"verdicts": (FINE, LOW)}, "gate 2 min_metric.passed", True, False),
        ({"holdout": dataclasses.replace(QUALITY, metrics={"log_loss": 0.25})}, "holdout.metrics.log_loss", 0.5, 0.25),
        ({"holdout": dataclasses.replace(QUALITY, metrics=QUALITY.metrics | {"r2": 1.0})}, "holdout.metrics.r2", ABSENT, 1.0),
        ({"holdout": dataclasses.replace(QUALITY, intervals={"log_loss": (0.4, 0.7)})}, "holdout.intervals.log_loss.1", 0.6, 0.7),
        ({"constant": {"log_loss": 0.8}}, "constant.log_loss", 0.7, 0.8),
        ({"later": {"8": dataclasses.replace(QUALITY, rows=4)}}, "later.8.rows", 3, 4),
        ({"importance": {"wind": 0.4, "rain": 0.6}}, "importance.wind", 0.6, 0.4),
        ({"leaks": Probe("multiclass", ((Feature("wind", "numeric", "wind"), 0.7),), ())}, "leaks.strengths.0.1", 0.6, 0.7),
        ({"digest": "d2"}, "the model's files", "d1", "d2"),
    ],
)
def test_a_changed_verdict_metric_or_model_is_found(
    store: Store, tmp_path: Path, changed: dict[str, Any], what: str, recorded: Any, replayed: Any
) -> None:
    found = of_evaluations(store, tmp_path, **changed)
    check(found, what, None, None, recorded, replayed)


def test_a_gate_or_a_group_that_only_one_side_has_is_found(store: Store, tmp_path: Path) -> None:
    found = of_evaluations(store, tmp_path / "gate", verdicts=(FINE,))
    assert found is not None
    assert (found.what, found.recorded["reason"], found.replayed) == ("gate 2 min_metric", "fine", ABSENT)
    found = of_evaluations(store, tmp_path / "group", slices={"origin": {"JFK": QUALITY}})
    assert found is not None
    assert (found.what, found.recorded["rows"], found.replayed) == ("slices.origin.EWR", 3, ABSENT)


def test_another_number_of_holdout_rows_is_found(store: Store, tmp_path: Path) -> None:
    fewer = {"y": np.zeros(2), "scores": np.zeros((2, 3)), "holdout": Quality(2, {}, {})}
    check(of_evaluations(store, tmp_path, **fewer), "holdout.rows", None, None, 3, 2)


# Scores


def scores(
    folder: Path,
    table: pa.Table,
    *,
    contract: Contract = CONTRACT,
    version: str = "flights/1",
    order: list[int] | None = None,
    files: int = 1,
) -> Path:
    kept = table.select([*contract.key, "origin", "late", "prediction", "score"]).take(order or list(range(table.num_rows)))
    kept = kept.append_column("model_version", pa.array([version] * kept.num_rows))
    (folder / "scores").mkdir(parents=True)
    size = -(-kept.num_rows // files)
    for at in range(files):
        pq.write_table(kept.slice(at * size, size), folder / "scores" / f"part-{at:05d}.parquet")
    return folder


SCORED = TABLE.append_column("prediction", pa.array([float(n % 3 == 0) for n in range(COUNT)])).append_column(
    "score", pa.array([0.0, math.nan, *(n / COUNT for n in range(2, COUNT))])
)


def test_the_same_scores_in_another_order_files_and_version_have_no_difference(tmp_path: Path, contract: Contract) -> None:
    one = scores(tmp_path / "one", SCORED, contract=contract)
    other = scores(tmp_path / "two", SCORED, contract=contract, version="flights/9", order=list(reversed(range(COUNT))), files=3)
    assert comparison.of_scores(Sides(one, other), contract) is None


@pytest.mark.parametrize(("column", "row", "value"), [("score", 7, 0.25), ("score", 1, 0.5), ("prediction", 3, 0.0), ("origin", 4, "LGA")])
def test_a_row_that_is_scored_otherwise_is_found(tmp_path: Path, column: str, row: int, value: Any) -> None:
    one = scores(tmp_path / "one", SCORED)
    other = scores(
        tmp_path / "two", planted(SCORED, column, row, value), version="flights/2", order=[3, *range(3), *range(4, COUNT)], files=2
    )
    was = Difference("", "", None, None, SCORED.column(column)[row].as_py(), value)
    check(comparison.of_scores(Sides(one, other), CONTRACT), "predictions", column, key(row), was.recorded, value)


def test_without_a_key_a_changed_score_is_found_by_the_columns_that_were_kept(tmp_path: Path) -> None:
    one = scores(tmp_path / "one", SCORED, contract=KEYLESS)
    other = scores(tmp_path / "two", planted(SCORED, "score", 4, 0.99), contract=KEYLESS)
    found = comparison.of_scores(Sides(one, other), KEYLESS)
    check(found, "predictions", "score", {"origin": None, "late": 0.0}, 4 / COUNT, 0.99)


def test_rows_that_only_one_side_scored_are_found(tmp_path: Path) -> None:
    whole, less = scores(tmp_path / "one", SCORED), scores(tmp_path / "two", SCORED, order=[n for n in range(COUNT) if n != 5])
    row = {name: SCORED.column(name)[5].as_py() for name in ("carrier", "number", "origin", "late", "prediction", "score")}
    check(comparison.of_scores(Sides(whole, less), CONTRACT), "predictions", None, key(5), row, ABSENT)
    check(comparison.of_scores(Sides(less, whole), CONTRACT), "predictions", None, key(5), ABSENT, row)


def test_scores_of_no_rows_have_no_difference(tmp_path: Path) -> None:
    sides = Sides(tmp_path / "one", tmp_path / "two")
    for folder in dataclasses.astuple(sides):
        (folder / "scores").mkdir(parents=True)
    assert comparison.of_scores(sides, CONTRACT) is None


def test_a_result_without_its_record_is_gone(tmp_path: Path) -> None:
    assert comparison.gone(tmp_path)
    (tmp_path / "stage.json").write_text("{}")
    assert not comparison.gone(tmp_path)
