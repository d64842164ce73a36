"""The frame of the benchmarks, and the comparison that the any_table benchmark makes; no run is measured here."""

import importlib
import json

import numpy as np
import pyarrow as pa
import pytest

from bench import any_table, plain, report, shapes
from bench.__main__ import main, names, run
from tables.contract import Column, Contract
from tables.target import Target


class Fake:
    """A benchmark that measures nothing."""

    def measure(self, parts, say):
        say("measuring")
        return {"parts": list(parts), "ratios": {"one": 1.25}}

    def publish(self, result):
        return []


def test_json_is_one_object_with_ratios_and_the_machine(capsys):
    run("fake", Fake(), ["one"], as_json=True)
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["ratios"] == {"one": 1.25} and result["parts"] == ["one"] and result["benchmark"] == "fake"
    assert {"cores", "packages", "commit"} <= set(result["machine"])
    assert said.err == "measuring\n"


def test_lines_for_people_name_each_ratio(capsys):
    run("fake", Fake(), [], as_json=False)
    assert "one              1.250" in capsys.readouterr().out


def test_benchmarks_are_the_modules_that_measure():
    assert "any_table" in names() and "shapes" not in names()
    assert all(hasattr(importlib.import_module(f"bench.{name}"), "publish") for name in names())


def test_unknown_benchmark_and_unknown_table_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["any_tabel"])
    assert "any_table" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no such table: irish"):
        any_table.measure(["irish"], print)


def test_a_shape_is_the_same_file_each_time(tmp_path):
    shape = next(shape for shape in shapes.SHAPES if shape.name == "survey")
    first = shape.save(tmp_path).read_bytes()
    assert shape.save(tmp_path).read_bytes() == first


def contract() -> Contract:
    columns = {
        "id": Column(type="string", role="key"),
        "who": Column(type="string", role="observed", note="id of a group of rows"),
        "colour": Column(type="string"),
        "size": Column(type="double"),
        "day": Column(type="date", role="time"),
        "y": Column(type="bool", role="label"),
    }
    return Contract(name="t", task="binary", label="y", columns=columns, positive=True, key=["id"])


def test_plain_pipeline_learns_from_text_numbers_and_dates_but_not_from_ids():
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "blue"], 400)
    table = pa.table(
        {
            "id": [str(i) for i in range(400)],
            "who": ["x"] * 400,
            "colour": pa.array([None, *colour[1:]], pa.string()),
            "size": rng.normal(size=400),
            "day": pa.array(np.arange(400, dtype=np.int32)).cast(pa.date32()),
            "y": pa.array(colour == "red"),
        }
    )
    assert plain.columns(contract()) == ["colour", "size", "day"]
    found = plain.answers(contract(), Target("binary", ("false", "true")), table.slice(0, 300), table.slice(300), 0)
    assert (found.codes == (colour[300:] == "red")).all() and found.scores.shape == (100,)


def test_difference_is_positive_where_ours_is_better_and_counts_standard_errors():
    rng = np.random.default_rng(1)
    y = rng.normal(size=500)
    theirs, ours = (plain.Answers(y + rng.normal(size=500) * noise, y) for noise in (1.0, 0.5))
    found = plain.compare(Target("regression"), "rmse", y, theirs, ours, 0)
    assert list(found) == ["rmse", "mae", "r2"]
    assert all(each["difference"] > 0 and report.errors(each) > 5 for each in found.values())


def test_page_names_shapes_where_the_plain_pipeline_is_better():
    found = {"plain": 1.0, "ours": 1.5, "difference": -0.5, "standard_error": 0.1}
    machine = dict.fromkeys(("cores", "processor", "memory_gib", "system", "packages", "commit", "when", "load_before"), "x")
    row = {"name": "lost", "what": "w", "task": "regression", "rows": 10, "columns": 2, "holdout_rows": 5, "metric": "rmse"}
    row |= {"metrics": {"rmse": found, "r2": found}, "winner": "linear", "seconds": {"run": 1.0}, "findings": ["task: a"]}
    row |= {"refused": ["too weak"], "machine": machine}
    said = report.page([row], 16)
    assert "the plain pipeline on lost;" in said and "**Refused** (exit code 3): too weak" in said
    assert any_table._ratio(row) == pytest.approx(0.6667)
