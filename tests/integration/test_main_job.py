"""The main job end to end: real Ray, Tune, MLflow and Serve on real flights."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from homes import SMALL, Home

from ledger.registry import Registry
from ledger.tracking import Tracking
from tables.contract import Contract
from tables.snapshots import open_snapshot
from trainers.bundle import Bundle


def ask(job: dict[str, Any], body: Any, token: str | None = None, path: str | None = None) -> httpx.Response:
    token = Path(job["token_file"]).read_text() if token is None else token
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.post(path or job["predict_url"], json=body, headers=headers, timeout=30)


@pytest.fixture(scope="session")
def bundle(main_job: dict[str, Any], home: Home) -> Bundle:
    version = Registry(Tracking.open(home.store)).find("flights_small")
    return Bundle.open(version.folder, version.digest)


def test_scripts_find_what_the_design_promises(main_job: dict[str, Any]) -> None:
    promised = (
        *("verb", "ok", "exit_code", "run_id", "seconds", "dataset", "snapshot", "trainer", "params", "metrics", "gates"),
        *("model", "version", "aliases", "endpoint", "token_file", "score_input", "scores", "report"),
    )
    assert [key for key in promised if key not in main_job] == []
    assert main_job["ok"] is True
    assert sorted(main_job["aliases"]) == ["candidate", "champion"]
    assert set(main_job["seconds"]) >= {"ingest", "prepare", "sweep", "evaluate", "register", "deploy", "score", "report"}
    for part in ("validation", "holdout"):
        assert set(main_job["metrics"][part]) == {"roc_auc", "average_precision", "log_loss", "brier", "accuracy", "f1_macro"}
    assert main_job["metrics"]["holdout"]["roc_auc"] > 0.70
    assert [gate["passed"] for gate in main_job["gates"]] == [True] * 4


def test_every_quarantined_row_has_its_reason(main_job: dict[str, Any], home: Home) -> None:
    folder = home.store.quarantine / "flights_small"
    rows = pa.dataset.dataset([str(f) for f in folder.glob("rows1*.parquet")]).to_table()
    assert rows.num_rows == sum(main_job["quarantined"].values())
    assert rows.column("_reason").null_count == 0
    joined = pq.read_table(folder / "joined-tables.parquet").to_pylist()
    assert any(row["rule"] == "weather" and "1048" in row["values"] for row in joined)
    snapshot = open_snapshot(home.store, "flights_small")
    assert snapshot.rows + rows.num_rows == 109_119


def test_the_printed_curl_line_works_as_it_is(main_job: dict[str, Any]) -> None:
    done = subprocess.run(["bash", "-c", main_job["curl"]], capture_output=True, text=True, timeout=30)
    answer = json.loads(done.stdout)
    assert answer["id"]
    assert answer["predictions"][0]["score"] == pytest.approx(0.5, abs=0.5)


def test_requests_are_refused_as_the_contract_says(main_job: dict[str, Any], bundle: Bundle) -> None:
    row = bundle.example
    assert ask(main_job, {"rows": [row]}, token="").status_code == 401
    assert ask(main_job, {"rows": [row]}, token="wrong").status_code == 401
    wrong = ask(main_job, {"rows": [{**row, "distance": "far"}]})
    assert wrong.status_code == 422
    assert "distance" in wrong.json()["error"]["what"]
    assert ask(main_job, {"rows": [{**row, "carrier": "never seen"}]}).status_code == 200
    missing = ask(main_job, {"rows": [{key: value for key, value in row.items() if key != "distance"}]})
    assert missing.status_code == 422
    assert "distance" in missing.text


def test_training_scoring_and_http_give_the_same_bits(main_job: dict[str, Any], bundle: Bundle) -> None:
    inputs = (
        pa.dataset.dataset(main_job["score_input"]).to_table().sort_by([(key, "ascending") for key in bundle.contract.key]).slice(0, 300)
    )
    scored = pa.dataset.dataset(main_job["scores"]).to_table()
    keys = [str(row) for row in scored.select(bundle.contract.key).to_pylist()]
    by_key = dict(zip(keys, scored.column("score").to_pylist(), strict=True))
    batch = np.array([by_key[str(row)] for row in inputs.select(bundle.contract.key).to_pylist()])
    direct = bundle.scores(inputs)
    rows = inputs.select(bundle.contract.features).to_pylist()
    together = [p["score"] for p in ask(main_job, {"rows": rows}).json()["predictions"]]
    singly = [ask(main_job, {"rows": [row]}).json()["predictions"][0]["score"] for row in rows[:20]]
    tolerance = bundle.exactness.tolerance
    for other in (batch, np.array(together)):
        assert np.abs(other - direct).max() <= tolerance
    assert np.abs(np.array(singly) - direct[:20]).max() <= tolerance


def test_the_model_opens_in_mlflow_without_a_pickle(main_job: dict[str, Any], bundle: Bundle, home: Home) -> None:
    mlflow.set_registry_uri(f"sqlite:///{home.store.root / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{home.store.root / 'mlflow.db'}")
    opened = mlflow.pyfunc.load_model("models:/flights_small@champion")
    rows = bundle.golden.select(bundle.contract.features)
    assert opened.predict(rows.to_pandas())["score"].tolist() == bundle.scores(rows).tolist()
    assert [f for f in bundle.folder.rglob("*") if f.suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth")] == []


def test_each_trial_is_a_child_run(main_job: dict[str, Any], home: Home) -> None:
    tracking = Tracking.open(home.store)
    client, run_id = tracking.client, tracking.mlflow_run_id(main_job["run_id"])
    experiment = client.get_experiment_by_name("flights_small")
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert len(children) == 5
    assert {child.data.params["trainer"] for child in children} == {"linear", "xgboost", "lightgbm", "mlp"}
    assert client.get_run(run_id).info.status == "FINISHED"


def test_no_leakage_column_is_a_feature(bundle: Bundle) -> None:
    forbidden = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum", "month", "late"}
    assert not forbidden & {feature.source for feature in bundle.encoder.features}


def test_the_report_is_one_small_self_contained_file(main_job: dict[str, Any]) -> None:
    html = Path(main_job["report"]).read_text()
    assert len(html) < 1_000_000
    assert "flights_small" in html
    assert "http://" not in html.replace("http://www.w3.org", "").replace(main_job["endpoint"], "")


def test_another_seed_replaces_the_champion_only_through_the_gate(main_job: dict[str, Any], home: Home) -> None:
    second = home.process("run", *SMALL, "trainer=linear", "seed=7", "sweep.num_trials=1", "--json")
    answer = json.loads(second.stdout.splitlines()[-1])
    assert second.returncode == 3
    verdict = next(gate for gate in answer["gates"] if gate["name"] == "not_worse")
    assert verdict["passed"] is False
    assert "champion flights_small/1" in answer["release"]
    assert "not_worse" in Path(answer["report"]).read_text()
    assert [v["version"] for v in home.raycycle("model", "list", "flights_small")["versions"] if "champion" in v["aliases"]] == [1]
    assert "failed its gates" in home.raycycle("deploy", "flights_small", "2", code=3)["error"]["what"]


def test_scoring_by_command_gives_the_rows_of_the_run(main_job: dict[str, Any], home: Home, tmp_path: Path) -> None:
    output = tmp_path / "scores with space"
    made = home.raycycle("score", "flights_small", main_job["score_input"], str(output), "keep=[late]")
    again = home.raycycle("score", "flights_small", main_job["score_input"], str(output), "keep=[late]")
    assert made["rows"] == again["rows"] == pa.dataset.dataset(main_job["scores"]).count_rows()
    columns = pa.dataset.dataset(output).schema.names
    assert set(columns) == {*Contract.load(bundle_contract(home)).key, "late", "prediction", "score", "model_version"}
    refused = home.raycycle("score", "flights_small/1", main_job["score_input"], str(output), code=2)
    assert "another" in refused["error"]["what"]


def bundle_contract(home: Home) -> Path:
    return Registry(Tracking.open(home.store)).find("flights_small").folder / "contract.yaml"


def test_status_says_what_answers(main_job: dict[str, Any], home: Home) -> None:
    found = home.raycycle("status")
    assert found["state"] == "up"
    assert [(model["name"], model["version"]) for model in found["models"]] == [("flights_small", 1)]
