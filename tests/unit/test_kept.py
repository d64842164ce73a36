"""What stages keep: read again it is what was made, to the bit."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.store import Store, read_json
from flows.evaluation import Evaluation, Quality
from flows.gates import Verdict
from flows.ingest import Ingested
from flows.leaks import Probe, Suspect
from flows.prepared import Prepared, Rows
from flows.score import Scored
from flows.sweep import Swept
from flows.trial import Trial
from tables import snapshots
from tables.contract import Column, Contract
from tables.encoder import DateSpec, Encoder, LevelSpec, NumericSpec
from tables.features import Feature
from tables.sketches import LevelSketch, NumericSketch, sketch
from tables.splits import HashSplit, Split, TimeSplit, row_keys
from tables.target import Target
from trainers.protocol import Matrix

NAN, INF = math.nan, math.inf
CONTRACT = Contract(
    name="flights",
    task="binary",
    label="late",
    positive=False,
    key=["number"],
    columns={
        "number": Column(type="int64", role="key", nullable=False),
        "day": Column(type="date", role="time"),
        "origin": Column(type="string", allowed=["JFK", "größe 大小"]),
        "wind": Column(type="double", min=0.0),
        "late": Column(type="bool", role="label", nullable=False),
    },
)
ENCODER = Encoder(
    [NumericSpec("wind", 0.1 + 0.2, True), LevelSpec("origin", ["JFK", "größe 大小"], 3), DateSpec("day", ["weekday"], [3.0], False)],
    {"year": "constant"},
)
ROWS = pa.table(
    {
        "number": pa.array(range(12), pa.int64()),
        "day": pa.array([dt.date(2024, 1, 1 + n) for n in range(12)], pa.date32()),
        "origin": pa.array(["JFK", None, "größe 大小"] * 4),
        "wind": pa.array([0.5, None, math.nan, math.inf] * 3),
        "late": pa.array([True, False] * 6),
    }
)
SPLITS: list[Split] = [
    HashSplit(),
    HashSplit(valid=0.1, by="origin", stratify=False),
    HashSplit().fitted(np.arange(40, dtype=np.uint64) << np.uint64(58), pa.array(["yes", "no"] * 20)),
    TimeSplit(column="day", valid_from="2024-01-05", holdout_from="2024-01-09"),
    TimeSplit(column="month", valid_from=8, holdout_from=9, later_from=10),
]


def bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes()


def rows(table: pa.Table, contract: Contract = CONTRACT, *, judged: bool = False) -> Rows:
    x = ENCODER.encode(table)
    x[: len(x) // 2, 0] = np.float32(-0.0)
    y = np.arange(table.num_rows) * 0.1
    return Rows(Matrix(x, y, ENCODER.features), row_keys(table, contract), table.select(["origin", "day"]) if judged else pa.table({}))


def prepared(split: Split = SPLITS[0], contract: Contract = CONTRACT, **changed: Any) -> Prepared:
    parts = {name: rows(ROWS.slice(at * 4, 4), contract, judged=name == "holdout") for at, name in enumerate(("train", "valid", "holdout"))}
    reference = {name: sketch(ROWS.column(name).combine_chunks()) for name in ("wind", "origin", "day")}
    facts: dict[str, Any] = {
        "contract": contract,
        "encoder": ENCODER,
        "target": Target("binary", ("false", "true")),
        "parts": parts,
        "reference": reference,
        "positive_share": 1 / 3,
        "dropped_rows": 2,
        "split": split,
    }
    return Prepared(**(facts | changed))


def through(made: Any, folder: Path, **more: Any) -> Any:
    """What is read of what was saved; saving that again gives the same digests and the same bytes."""
    folder.mkdir(parents=True)
    outputs = made.save(folder)
    found = type(made).load(folder, **more)
    assert all(isinstance(digest, str) and digest for digest in outputs.values())
    return found, outputs


@pytest.mark.parametrize("split", SPLITS, ids=["hash", "by group", "thresholds", "dates", "later"])
def test_what_prepare_made_is_read_as_it_was(tmp_path: Path, split: Split) -> None:
    made = prepared(split)
    found, outputs = through(made, tmp_path / "one", plugins=[])
    for field in ("contract", "target", "reference", "positive_share", "dropped_rows", "split", "can_fold"):
        assert getattr(found, field) == getattr(made, field), field
    assert hash(found.split) == hash(made.split)
    assert found.encoder.features == ENCODER.features
    assert (found.encoder.specs, found.encoder.dropped) == (ENCODER.specs, ENCODER.dropped)
    assert list(found.parts) == list(made.parts)
    for name, part in made.parts.items():
        assert bits(found.parts[name].matrix.x) == bits(part.matrix.x)
        assert bits(found.parts[name].matrix.y) == bits(part.matrix.y)
        assert bits(found.parts[name].keys) == bits(part.keys)
        assert found.parts[name].table.equals(part.table)
        assert found.parts[name].digest == part.digest
    (tmp_path / "two").mkdir()
    assert found.save(tmp_path / "two") == outputs
    for file in (tmp_path / "one").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes(), file.name


def test_a_split_that_was_read_assigns_the_same_rows(tmp_path: Path) -> None:
    table = ROWS.append_column("month", pa.array([7, 8, 9, 10] * 3, pa.int64()))
    keys = row_keys(table, CONTRACT)
    bound = TimeSplit(column="day", valid_from=dt.date(2024, 1, 5), holdout_from=dt.date(2024, 1, 9))
    for at, split in enumerate([*SPLITS, bound]):
        found, _ = through(prepared(split), tmp_path / str(at), plugins=[])
        assert found.split.assign(table, keys, "late").tolist() == split.assign(table, keys, "late").tolist()


def test_a_part_without_rows_is_kept(tmp_path: Path) -> None:
    made = prepared()
    empty = dataclasses.replace(made, parts={**made.parts, "later": rows(ROWS.slice(0, 0), judged=True)})
    found, outputs = through(empty, tmp_path / "one", plugins=[])
    assert list(found.parts) == ["train", "valid", "holdout", "later"]
    later = found.parts["later"]
    assert (len(later), later.matrix.x.shape, later.table.column_names) == (0, (0, len(ENCODER.features)), ["origin", "day"])
    assert later.digest == outputs["later"]


def test_a_contract_without_a_key_is_kept(tmp_path: Path) -> None:
    bare = Contract(
        name="iris", task="multiclass", label="kind", columns={"kind": Column(type="string", role="label"), "wind": Column(type="double")}
    )
    found, _ = through(
        dataclasses.replace(prepared(), contract=bare, target=Target("multiclass", ("a", "nan", "1"))), tmp_path / "one", plugins=[]
    )
    assert found.contract == bare
    assert found.contract.key == []
    assert found.target.classes == ("a", "nan", "1")
    again, _ = through(prepared(target=Target("regression", log=True)), tmp_path / "two", plugins=[])
    assert again.target == Target("regression", (), True)


def test_sketches_are_kept_whatever_they_saw(tmp_path: Path) -> None:
    reference = {
        "nothing": NumericSketch(),
        "infinite": sketch(pa.array([math.inf, -math.inf, None, math.nan])),
        "tiny": sketch(pa.array([5e-324, -1.5, 1e308])),
        "overflowed": LevelSketch(nulls=3, lost=9),
        "text": sketch(pa.array(["", "nan", "größe 大小", None, ""])),
    }
    found, _ = through(prepared(reference=reference), tmp_path / "one", plugins=[])
    assert found.reference == reference
    assert [type(each) for each in found.reference.values()] == [type(reference[name]) for name in found.reference]


@pytest.mark.parametrize("part", ["x", "y", "keys", "table"])
def test_the_digest_of_a_part_follows_from_all_that_it_holds(part: str) -> None:
    one = rows(ROWS, judged=True)
    x, y, keys, table = one.matrix.x.copy(), one.matrix.y.copy(), one.keys.copy(), one.table
    if part == "table":
        table = table.set_column(0, "origin", pa.array(["LGA", *ROWS.column("origin").to_pylist()[1:]]))
    else:
        array = {"x": x, "y": y, "keys": keys}[part]
        array.flat[3] = array.flat[3] + array.dtype.type(1)
    assert Rows(Matrix(x, y, ENCODER.features), keys, table).digest != one.digest
    assert rows(ROWS, judged=True).digest == one.digest


def trial(number: int = 3, **changed: Any) -> Trial:
    facts: dict[str, Any] = {
        "number": number,
        "family": "xgboost",
        "params": {"deep": True, "grow_policy": "nan", "learning_rate": 0.1 + 0.2, "max_depth": 6, "none": None},
        "log_target": False,
        "status": "finished",
        "loss": 1 / 3,
        "metrics": {"log_loss": 1 / 3, "rmse": INF, "roc_auc": NAN},
        "threshold": 0.43,
        "steps": 210,
        "rungs": {0.1: 0.5, 1 / 3: INF},
        "seconds": 1.25,
        "started": 1.7e9 + 0.1,
        "worker": "512",
        "reason": "behind at a rung",
    }
    return Trial(**(facts | changed))


FAILED = {"status": "failed", "loss": INF, "metrics": {}, "threshold": NAN, "steps": None, "rungs": {}, "reason": "rmse is nan"}


def test_trials_are_read_as_they_were_and_so_is_the_best(tmp_path: Path) -> None:
    trials = (trial(0, **FAILED), trial(1, loss=0.5), trial(2))
    made = Swept(trials, trials[2], "log_loss", 5, 2**31 - 1)
    found, outputs = through(made, tmp_path / "one")
    assert repr(found) == repr(made), "NaN is NaN, infinity infinity, and whole numbers stay whole"
    assert found.best is found.trials[2]
    assert found.value(found.best) == made.value(made.best)
    (tmp_path / "two").mkdir()
    assert found.save(tmp_path / "two") == outputs


def test_when_and_how_fast_trials_ran_is_no_part_of_their_digest(tmp_path: Path) -> None:
    def outputs(at: str, one: Trial) -> dict[str, str]:
        (tmp_path / at).mkdir()
        return Swept((one,), one, "log_loss", 1, 0).save(tmp_path / at)

    first = outputs("one", trial())
    assert outputs("two", trial(seconds=9.0, started=0.0, worker="1")) == first
    for at, changed in enumerate(({"loss": 0.5}, {"params": {}}, {"steps": 211}, {"rungs": {0.1: 0.6}}, {"threshold": 0.44})):
        other = outputs(f"other {at}", trial(**changed))
        assert other["trials"] != first["trials"]
        assert other["best"] != first["best"]


def evaluation(folder: Path, task: str = "binary", **changed: Any) -> Evaluation:
    random = np.random.default_rng(0)
    classes = {"binary": ("no", "yes"), "multiclass": ("10", "9", "nan"), "regression": ()}[task]
    y = random.integers(0, 3, 40) * 1.0
    scores = random.dirichlet([1, 1, 1], 40) if task == "multiclass" else random.random(40)
    groups = {name: Quality(30, {"log_loss": 0.1, "roc_auc": NAN}, {}) for name in ("8", "9", "10", "(missing)")}
    facts: dict[str, Any] = {
        "bundle": folder / "bundle",
        "digest": "d1",
        "trial": trial(),
        "params": {"max_depth": 6, "l2": 0.5, "deep": False, "policy": "nan", "none": None, "layers": [64, 32]},
        "target": Target(task, classes, task == "regression"),  # type: ignore[arg-type]
        "holdout": Quality(40, {"roc_auc": 0.7, "log_loss": 1 / 3, "brier": 0.0}, {"log_loss": (0.1, 0.1 + 0.2), "roc_auc": (NAN, INF)}),
        "constant": {"log_loss": INF, "roc_auc": NAN},
        "champion": {"log_loss": -INF},
        "champion_name": "flights/3",
        "later": groups,
        "slices": {"origin": groups, "carrier": {}},
        "calibration": [{"predicted": 0.1, "observed": NAN, "rows": 4}, {"predicted": 1.0, "observed": 1.0, "rows": 5}],
        "importance": {"wind": 0.5, "origin": 0.3, "a": 0.2},
        "leaks": Probe(
            task,
            ((Feature("wind", "numeric", "wind"), NAN), (Feature("o", "categorical", "origin", 4), 0.5)),
            (Suspect("wind", 1.0, "null"),),
        ),  # type: ignore[arg-type]
        "verdicts": (
            Verdict("not_worse", True, None, 0.0, "there is no champion yet"),
            Verdict("calibrated", False, NAN, 0.02, "calibration error nan", (-INF, INF)),
        ),
        "y": y,
        "scores": scores,
    }
    return Evaluation(**(facts | changed))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_what_evaluate_found_is_read_as_it_was(tmp_path: Path, task: str) -> None:
    made = evaluation(tmp_path / "one", task)
    found, outputs = through(made, tmp_path / "one")
    for field in dataclasses.fields(Evaluation):
        if field.name not in ("y", "scores"):
            assert repr(getattr(found, field.name)) == repr(getattr(made, field.name)), field.name
    assert bits(found.y) == bits(made.y)
    assert bits(found.scores) == bits(made.scores)
    assert found.passed == made.passed
    (tmp_path / "two").mkdir()
    assert found.save(tmp_path / "two") == outputs
    assert (tmp_path / "two" / "evaluation.json").read_bytes() == (tmp_path / "one" / "evaluation.json").read_bytes()


def test_groups_and_importance_keep_their_order(tmp_path: Path) -> None:
    found, _ = through(evaluation(tmp_path / "one"), tmp_path / "one")
    assert list(found.later) == ["8", "9", "10", "(missing)"]
    assert list(found.slices) == ["origin", "carrier"]
    assert list(found.importance) == ["wind", "origin", "a"]
    assert list(found.holdout.metrics) == ["roc_auc", "log_loss", "brier"]


def test_an_evaluation_without_a_champion_and_with_nothing_to_tell_is_kept(tmp_path: Path) -> None:
    bare = {"champion": None, "champion_name": "", "later": {}, "slices": {}, "calibration": [], "importance": {}, "verdicts": ()}
    made = evaluation(tmp_path / "one", holdout=Quality(0, {}, {}), y=np.zeros(0), scores=np.zeros((0, 3)), **bare)
    found, _ = through(made, tmp_path / "one")
    assert repr(found) == repr(made)
    assert found.scores.shape == (0, 3)
    assert found.passed


def test_a_gate_may_answer_with_numbers_of_numpy(tmp_path: Path) -> None:
    verdict = Verdict("calibrated", np.bool_(False), np.float64(2.5), 1, "too far", (np.float64(2.0), np.float32(3.0)))  # type: ignore[arg-type]
    found, _ = through(evaluation(tmp_path / "one", verdicts=(verdict,)), tmp_path / "one")
    assert repr(found.verdicts) == repr((Verdict("calibrated", False, 2.5, 1.0, "too far", (2.0, 3.0)),))


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("scores", "scores"),
        ("digest", "model"),
        ("holdout", "metrics"),
        ("importance", "metrics"),
        ("slices", "metrics"),
        ("verdicts", "verdicts"),
    ],
)
def test_each_finding_has_its_digest(tmp_path: Path, name: str, output: str) -> None:
    others = {"scores": np.zeros(40), "digest": "d2", "holdout": Quality(40, {}, {}), "importance": {}, "slices": {}, "verdicts": ()}
    one, first = through(evaluation(tmp_path / "one"), tmp_path / "one")
    _, other = through(dataclasses.replace(one, **{name: others[name]}), tmp_path / "two")
    assert [key for key in first if first[key] != other[key]] == [output]


def scores(folder: Path, version: str = "flights/1", *, parts: int = 1) -> Path:
    (folder / "scores").mkdir(parents=True)
    table = pa.table({"number": range(6), "score": [0.1, NAN, INF, 0.4, 0.5, 0.6], "model_version": [version] * 6})
    for part in range(parts):
        pq.write_table(table.slice(part * 6 // parts, 6 // parts), folder / "scores" / f"part-{part:05d}.parquet")
    return folder / "scores"


def test_scores_and_how_they_were_judged_are_read_as_they_were(tmp_path: Path) -> None:
    by = {"8": {"rows": 3.0, "roc_auc": NAN, "log_loss": INF}, "(missing)": {"rows": 1.0}}
    made = Scored(scores(tmp_path / "one"), 6, {"wind is below 0": 2, "a": 3}, by)
    outputs = made.save(tmp_path / "one")
    found = Scored.load(tmp_path / "one")
    assert (found.output, found.rows, found.quarantined) == (made.output, 6, made.quarantined)
    assert {group: repr(sorted(metrics.items())) for group, metrics in found.by.items()} == {
        group: repr(sorted(metrics.items())) for group, metrics in by.items()
    }
    assert found.save(tmp_path / "one") == outputs


def test_scores_have_the_same_digest_in_any_files_and_by_any_number_of_the_version(tmp_path: Path) -> None:
    one = Scored(scores(tmp_path / "one"), 6, {}).save(tmp_path / "one")
    assert Scored(scores(tmp_path / "two", "flights/2", parts=3), 6, {}).save(tmp_path / "two") == one
    judged = Scored(tmp_path / "one" / "scores", 6, {}, {"8": {"rows": 6.0}}).save(tmp_path / "one")
    assert judged["by"] != one["by"]
    assert judged["predictions"] == one["predictions"]


@pytest.mark.parametrize("quarantine", [None, Path("quarantine") / "flights"])
def test_what_ingest_made_is_read_as_it_was(store: Store, tmp_path: Path, quarantine: Path | None) -> None:
    part = snapshots.write_part(snapshots.table_folder(store, "flights"), ROWS)
    snapshot = snapshots.commit(store, "flights", CONTRACT.schema(), [part])
    made = Ingested(snapshot, {"wind.max": 29, "größe 大小": 1}, {"odd": 4}, quarantine)
    found, outputs = through(made, tmp_path / "one", store=store)
    assert found == made
    assert outputs["rows"] == str(snapshot.digest)
    assert read_json(tmp_path / "one" / "ingested.json")["version"] == 0
    more = snapshots.write_part(snapshots.table_folder(store, "flights"), ROWS.slice(0, 3))
    snapshots.commit(store, "flights", CONTRACT.schema(), [more])
    assert Ingested.load(tmp_path / "one", store) == made, "a later version changes nothing"
