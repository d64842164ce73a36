"""`init` and `run` on tables nobody prepared: every task, from file to registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from homes import Home
from sklearn import datasets

FAST = ("deploy=none", "sweep.num_trials=4", "store.root=tables-home")


def learn(home: Home, file: Path, label: str, name: str) -> dict[str, Any]:
    made = home.raycycle("init", str(file), "--label", label, "--name", name)
    assert made["next"] == f"raycycle run dataset={name}"
    return home.raycycle("run", f"dataset={name}", *FAST)


def test_three_classes_from_a_semicolon_file_with_odd_names(home: Home, tmp_path: Path) -> None:
    iris = datasets.load_iris(as_frame=True)
    frame = iris.frame.rename(columns={"petal length (cm)": 'Länge; "[cm]"', "petal width (cm)": "123"})
    frame["art"] = [iris.target_names[k] for k in frame.pop("target")]
    frame.loc[3, "123"] = None
    frame.to_csv(tmp_path / "iris.csv", sep=";", index=False, encoding="utf-8-sig", na_rep="?")
    run = learn(home, tmp_path / "iris.csv", "art", "iris")
    assert run["metric"] == "log_loss"
    assert run["metrics"]["holdout"]["accuracy"] > 0.85
    scored = pyarrow.dataset.dataset(run["scores"]).to_table()
    assert {"prediction", "score_setosa", "score_versicolor", "score_virginica"} <= set(scored.column_names)
    total = sum(scored.column(f"score_{each}").to_numpy() for each in iris.target_names)
    assert total == pytest.approx(1.0, abs=1e-6)
    assert set(scored.column("prediction").to_pylist()) <= set(iris.target_names)
    whole = home.raycycle("score", "iris@candidate", str(tmp_path / "iris.csv"), str(tmp_path / "scores"), "store.root=tables-home")
    assert (whole["rows"], whole["quarantined"]) == (150, {})
    frame.drop(columns="123").to_csv(tmp_path / "less.csv", sep=";", index=False)
    without = home.raycycle("score", "iris@candidate", str(tmp_path / "less.csv"), str(tmp_path / "none"), "store.root=tables-home")
    assert without["rows"] == 150, "a column that may be null may be left out"
    bad = frame.assign(**{"sepal length (cm)": "long"})
    bad.to_csv(tmp_path / "bad.csv", sep=";", index=False)
    error = home.raycycle("score", "iris@candidate", str(tmp_path / "bad.csv"), str(tmp_path / "no"), "store.root=tables-home", code=1)[
        "error"
    ]
    assert "sepal length (cm) is not a double (150)" in error["what"]
    assert not (tmp_path / "no").exists()


def test_a_number_from_json_lines(home: Home, tmp_path: Path) -> None:
    frame = datasets.load_diabetes(as_frame=True).frame
    frame.to_json(tmp_path / "diabetes.jsonl", orient="records", lines=True)
    run = learn(home, tmp_path / "diabetes.jsonl", "target", "diabetes")
    assert run["metric"] == "rmse"
    assert run["metrics"]["holdout"]["r2"] > 0.25
    assert set(run["metrics"]["holdout"]) == {"mae", "rmse", "r2"}
    held_out = pyarrow.dataset.dataset(run["score_input"]).count_rows()
    assert pyarrow.dataset.dataset(run["scores"]).count_rows() == held_out == round(0.2 * len(frame))
