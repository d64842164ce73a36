"""Listed runs: what they did in a line each, who is dead, and that no damaged record is hidden."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stores import RUN, kept, recorded

from cluster.store import Store, write_json
from conf.errors import RaycycleError, UsageError
from flows.runs import kept_json, newest
from ledger import records
from ledger.environment import process
from ledger.records import StageRun


def evaluated(store: Store, ran: bool = True) -> StageRun:
    files = {"evaluation.json": {"holdout": {"metrics": {"log_loss": 0.4565}}}}
    return kept(store, "evaluate", {"best": "b1"}, {"model": "d1"}, files, ran=ran)


MADE = {"metric": "log_loss", "model": "flights", "version": 3, "passed": True}


def test_a_run_is_told_in_one_line_and_the_newest_comes_first(store: Store) -> None:
    recorded(store, stages=[evaluated(store)], made=MADE)
    recorded(store, "bb" * 16, started="2026-11-24T10:00:00+00:00", ended=None, status="FAILED", error="it broke\nand more", dataset="taxi")
    first, second = newest(store).lines()
    assert first.split()[:7] == ["bb" * 6, "2026-11-24", "10:00Z", "run", "taxi", "FAILED", "-"]
    assert first.endswith("no stage ended  it broke")
    assert second == f"{'aa' * 6}  2026-11-23 10:00Z  run  flights  FINISHED     42.5 s  evaluate ran    log_loss 0.4565, flights/3"


def test_stages_from_the_cache_are_counted_and_a_refusal_is_said(store: Store) -> None:
    register = StageRun(stage="register", ran=True, why="flights/3", seconds=0.1)
    recorded(store, stages=[evaluated(store, ran=False), register], made={**MADE, "passed": False})
    assert newest(store).lines()[0].endswith("register ran; 1 kept  log_loss 0.4565, flights/3 refused")


def test_a_sweep_tells_its_best_value_on_validation_rows(store: Store) -> None:
    trials = [{"number": 0, "metrics": {"rmse": 3.0}}, {"number": 1, "metrics": {"rmse": 2.5}}]
    stage = kept(store, "sweep", {}, {"best": "b"}, {"swept.json": {"best": 1, "trials": trials}})
    recorded(store, verb="sweep", stages=[stage], made={"metric": "rmse"})
    assert newest(store).lines()[0].endswith("rmse 2.5000 (validation)")


def test_last_and_dataset_choose(store: Store) -> None:
    for day in range(1, 6):
        recorded(store, f"{day}" * 32, started=f"2026-11-0{day}T00:00:00+00:00", ended=None, dataset="ab"[day % 2] * 4)
    found = newest(store, last=2, dataset="bbbb")
    assert [run.run_id[0] for run in found.runs] == ["5", "3"]
    assert found.lines()[-1] == "1 older (--last 3)"
    with pytest.raises(UsageError, match="did you mean 'bbbb'"):
        newest(store, dataset="bbb")
    with pytest.raises(UsageError, match="out of range"):
        newest(store, last=0)


def test_no_run_yet_says_what_to_type(store: Store) -> None:
    assert newest(store).lines() == ["no run yet: raycycle run experiment=flights makes one"]


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 2}', "\udcff"], ids=["torn", "list", "old", "empty", "bytes"])
def test_a_damaged_record_is_listed_by_its_file(store: Store, text: str) -> None:
    recorded(store)
    file = store.runs / ("cc" * 16) / records.FILE
    file.parent.mkdir()
    file.write_bytes(text.encode(errors="surrogateescape"))
    found = newest(store, dataset="flights")
    assert [run.run_id for run in found.runs] == [RUN]
    assert found.lines()[-1].startswith(f"damaged  {file}: it is ")
    assert found.as_json()["damaged"][0]["file"] == str(file)


def test_a_run_without_a_record_or_with_another_runs_record_is_listed_as_damaged(store: Store) -> None:
    recorded(store)
    shutil.copytree(store.runs / RUN, store.runs / ("dd" * 16))
    (store.runs / ("ee" * 16)).mkdir()
    bad = recorded(store, "ab" * 16, started="yesterday")
    found = newest(store)
    assert [run.run_id for run in found.runs] == [RUN]
    assert [Path(each.file).parent.name[:2] for each in found.damaged] == [bad.run_id[:2], "dd", "ee"]


def spool(store: Store, run_id: str, **owner: Any) -> None:
    (store.folder("spool") / f"{run_id}.jsonl").write_text(json.dumps({"op": "owner", "format": 1, **owner}) + "\n")


def test_a_running_record_of_a_dead_process_is_killed(store: Store) -> None:
    here = process()
    owners = {"1": here, "2": {**here, "created": 1.0}, "3": {**here, "host": "elsewhere"}}
    for letter, owner in owners.items():
        recorded(store, letter * 32, status="RUNNING", ended=None)
        spool(store, letter * 32, **owner)
    recorded(store, "4" * 32, status="RUNNING", ended=None)
    recorded(store, "5" * 32, status="RUNNING", ended=None, started=dt.datetime.now(dt.UTC).isoformat())
    recorded(store, "6" * 32, status="RUNNING", ended=None, environment={"process": here})
    found = {run.run_id[0]: run.status for run in newest(store).runs}
    assert found == {"1": "RUNNING", "2": "KILLED", "3": "RUNNING?", "4": "KILLED", "5": "RUNNING?", "6": "RUNNING"}


def test_a_changed_evaluation_is_not_told(store: Store) -> None:
    stage = evaluated(store)
    recorded(store, stages=[stage], made=MADE)
    file = store.root / stage.folder / "evaluation.json"
    file.write_text(file.read_text().replace("0.4565", "0.1000"))
    assert newest(store).runs[0].value is None
    with pytest.raises(RaycycleError, match=r"evaluation.json differs from its digest"):
        kept_json(store, stage, "evaluation.json")


@pytest.mark.parametrize("folder", ["../outside", "/etc", "runs", ""])
def test_a_record_that_points_out_of_the_cache_is_not_followed(store: Store, folder: str) -> None:
    stage = StageRun(stage="evaluate", ran=True, why="", seconds=0.0, folder=folder)
    with pytest.raises(RaycycleError, match="no folder of the cache"):
        kept_json(store, stage, "evaluation.json")


def test_a_file_without_a_digest_is_not_told(store: Store) -> None:
    stage = evaluated(store)
    write_json(store.root / stage.folder / "swept.json", {})
    with pytest.raises(RaycycleError, match="no recorded digest"):
        kept_json(store, stage, "swept.json")


def test_names_from_data_cannot_steer_a_terminal(store: Store) -> None:
    recorded(store, status="FAILED", error="\x1b[2Jgone\u202e")
    assert not {"\x1b", "\u202e"} & set(newest(store).lines()[0])


def test_listing_imports_no_heavy_library(store: Store) -> None:
    recorded(store, stages=[evaluated(store)], made=MADE)
    heavy = ("mlflow", "ray", "torch", "pandas", "numpy", "pyarrow", "omegaconf")
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app; r = CliRunner().invoke(app, ['runs']);"
        f"assert r.exit_code == 0 and 'flights/3' in r.stdout, r.output; print([m for m in {heavy!r} if m in sys.modules])"
    )
    home = {**os.environ, "RAYCYCLE_HOME": str(store.root)}
    done = subprocess.run([sys.executable, "-c", code], env=home, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
