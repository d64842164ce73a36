"""A recorded run comes out again, and where it does not the first stage, column and row are named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from homes import Home

from conf.targets import PACKAGES, SOURCE
from flows import certificate
from ledger import records

LEARN = ("experiment=flights_small", "deploy=none", "trainer=linear", "sweep.num_trials=1")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, Any]]:
    home = Home(tmp_path_factory.mktemp("reproduce"))
    return home, home.raycycle("run", *LEARN)


def copied(home: Home, into: Path) -> Home:
    shutil.copytree(home.store.root, into / "home", symlinks=True, ignore=shutil.ignore_patterns("ray*"))
    return Home(into)


def test_the_same_command_again_runs_nothing_and_starts_no_ray(learned: tuple[Home, dict[str, Any]]) -> None:
    home, first = learned
    without_ray = "import sys; sys.modules['ray'] = None; from flows.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without_ray, "run", *LEARN, "--json"],
        cwd=home.folder,
        env={**os.environ, "RAYCYCLE_HOME": str(home.store.root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    again = json.loads(done.stdout.splitlines()[-1])
    assert again["ok"], done.stderr
    assert [line for line in done.stderr.splitlines() if " runs: " in line] == []
    same = ("snapshot", "trainer", "params", "metrics", "gates", "model", "version", "digest", "scored")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}
    record = json.loads((home.store.runs / again["run_id"] / "record.json").read_text())
    kept = {stage["stage"]: stage["ran"] for stage in record["stages"] if stage["stage"] != "register"}
    assert kept == dict.fromkeys(("ingest", "prepare", "sweep", "evaluate", "score", "report"), False)


def test_a_changed_setting_runs_only_what_reads_it_and_says_why(learned: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    home = copied(learned[0], tmp_path)
    done = home.process("run", *LEARN, "trainer.l2=2.0", "--until", "evaluate")
    assert "config trainer.l2 1.0 -> 2.0" in done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines() if " runs: " in line] == ["sweep", "evaluate"]


def test_a_recorded_run_comes_out_the_same(learned: tuple[Home, dict[str, Any]]) -> None:
    home, first = learned
    found = home.raycycle("reproduce", first["run_id"])
    assert found["verdict"] == "equal"
    assert found["stages"] == dict.fromkeys(("ingest", "prepare", "sweep", "evaluate", "score"), True)
    read = certificate.read(Path(found["certificate"]).parent, home.store)
    assert read.run_id == first["run_id"]
    assert all(stage.recorded == stage.replayed for stage in read.stages)
    assert list(home.store.jobs.glob("reproduce-*")) == []


def test_a_changed_cell_of_the_snapshot_is_named(learned: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    home = copied(learned[0], tmp_path)
    file = next((home.store.tables / "flights_small").glob("*.parquet"))
    table = pq.read_table(file)
    row = table.slice(7, 1).to_pylist()[0]
    values = table.column("distance").to_pylist()
    values[7] += 1
    at = table.column_names.index("distance")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), file, compression="zstd")
    found = home.raycycle("reproduce", learned[1]["run_id"], "--until", "ingest", code=3)
    first = found["first_difference"]
    assert (first["stage"], first["column"]) == ("ingest", "distance")
    assert first["row_key"]["flight"] == row["flight"]
    assert first["row_key"]["carrier"] == row["carrier"]
    assert sorted([first["recorded"], first["replayed"]]) == [row["distance"], row["distance"] + 1]
    refused = home.raycycle("run", *LEARN, "--from", "prepare", "--until", "prepare", code=1)
    assert file.name in refused["error"]["value"]


def test_one_changed_line_of_the_encoder_is_named(learned: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    home, first = learned
    for package in PACKAGES:
        shutil.copytree(SOURCE / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    encoder = tmp_path / "tables" / "encoder.py"
    line = "return NumericSpec(name, sketch.quantile(0.5), sketch.missing > 0)"
    assert line in encoder.read_text()
    encoder.write_text(encoder.read_text().replace(line, line.replace("0.5", "0.6")))
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "reproduce", first["run_id"], "--code", "here", "--json"],
        cwd=tmp_path,
        env={**os.environ, "RAYCYCLE_HOME": str(home.store.root), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 3, done.stderr
    assert found["stages"]["ingest"] is True
    difference = found["first_difference"]
    assert difference["stage"] == "prepare"
    assert difference["column"] is not None
    assert difference["row_key"]["flight"]
    assert difference["recorded"] != difference["replayed"]


def test_what_is_gone_makes_it_impossible_and_is_said(learned: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    home = copied(learned[0], tmp_path)
    run_id = learned[1]["run_id"]
    assert home.raycycle("reproduce", "0" * 32, code=2)["error"]["what"] == "no run has this id"
    folder = home.store.runs / run_id
    record, whole = records.read(folder), (folder / records.FILE).read_text()
    records.write(msgspec.structs.replace(record, code={**record.code, "commit": "0" * 40}), folder)
    assert "commit" in home.raycycle("reproduce", run_id, code=2)["error"]["what"]
    records.write(record, folder)
    next((home.store.tables / "flights_small").glob("*.parquet")).unlink()
    assert "snapshot" in home.raycycle("reproduce", run_id, code=2)["error"]["what"]
    for damaged in (whole[:-40], whole.replace('"seed": 0', '"seed": 5')):
        (folder / records.FILE).write_text(damaged)
        said = home.raycycle("reproduce", run_id, code=1)["error"]
        assert ("it is damaged" in said["what"], said["value"]) == (True, str(folder / records.FILE))
