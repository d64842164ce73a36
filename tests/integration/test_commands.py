"""Commands as a person meets them: wrong words, an interrupt, a second start, a file where a folder should be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from homes import RAYCYCLE, Home

from ledger.tracking import Tracking


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("trainer=xgbost", "xgboost"),
        ("sweep.num_trails=3", "sweep.num_trials"),
        ("sweep.num_trials=-1", "1 or more"),
        ("trainer.xgboost.resources.cpu=99", "trainer.resources.cpu="),
    ],
)
def test_wrong_configuration_exits_2_with_what_to_type(home: Home, override: str, suggestion: str) -> None:
    answer = home.raycycle("run", "experiment=flights", override, "store.root=untouched", code=2)
    assert suggestion in json.dumps(answer["error"])
    assert answer["ok"] is False
    assert not (home.folder / "untouched").exists()


def test_an_unusable_store_and_an_unknown_model_are_one_clear_message(home: Home) -> None:
    (home.folder / "a-file").write_text("")
    refused = home.raycycle("status", "store.root=a-file", code=2)
    assert "a-file" in refused["error"]["value"]
    for name in ("../x", "a b", "flights/abc", "nobody"):
        error = home.raycycle("score", name, "in.csv", "out", "store.root=empty-home", code=2)["error"]
        assert error["what"]
        assert error["allowed"]


def test_an_interrupted_run_stops_cleanly_and_says_how_to_continue(home: Home) -> None:
    words = [RAYCYCLE, "run", "experiment=flights_small", "deploy=none", "store.root=stopped-home", "--json"]
    process = subprocess.Popen(words, cwd=home.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    seen = []
    assert process.stderr is not None
    for line in process.stderr:
        seen.append(line)
        if line.startswith("prepare"):
            break
    time.sleep(4)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    answer = json.loads(out.splitlines()[-1])
    assert "same command" in answer["error"]["next"]
    root = home.folder / "stopped-home"
    from cluster.store import Store

    client = Tracking.open(Store.open(root)).client
    experiment = client.get_experiment_by_name("flights_small")
    parents = [run for run in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["KILLED"]
    assert client.search_registered_models() == []
    left = subprocess.run(["pgrep", "-f", str(root)], capture_output=True, text=True)
    assert left.stdout == ""


def test_init_writes_nothing_when_it_refuses(home: Home, tmp_path: Path) -> None:
    (tmp_path / "flat.csv").write_text("a,label\n" + "1,yes\n" * 50)
    refused = home.raycycle("init", str(tmp_path / "flat.csv"), "--label", "label", "--into", str(tmp_path / "tree"), code=2)
    assert "label" in refused["error"]["what"]
    assert not list(tmp_path.glob("tree/*/*.yaml"))
