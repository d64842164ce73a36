"""The end of a run in lines that say what won, how good, what it beat, what became of it and what to type next."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.store import Store
from flows import summary
from flows.evaluation import Quality
from flows.gates import Verdict
from flows.made import Made
from flows.trial import Trial

PLAN: Any = SimpleNamespace(later_by="month", config=SimpleNamespace(dataset=SimpleNamespace(name="flights")))


class Version(SimpleNamespace):
    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class Snapshot(SimpleNamespace):
    def __str__(self) -> str:
        return "flights@3"


def trial(number: int, family: str, loss: float, status: str = "finished", **params: object) -> Trial:
    return Trial(number, family, params, False, status, loss, {}, 0.5, None, {}, 0.0)  # type: ignore[arg-type]


def made(*, metric: str = "log_loss", passed: bool = True, champion: float | None = None, against: str = "", **more: Any) -> Made:
    trials = (
        trial(0, "linear", 0.6),
        trial(1, "mlp", 0.5, "stopped"),
        trial(2, "xgboost", 0.55, depth=6, rate=0.123456),
        trial(3, "linear", 0.58),
    )
    swept = SimpleNamespace(trials=trials, best=trials[2], metric=metric)
    judged = SimpleNamespace(
        holdout=Quality(1_234, {"log_loss": 0.52, "roc_auc": 0.77}, {"log_loss": (0.51, 0.53), "roc_auc": (0.76, 0.78)}),
        constant={"log_loss": 0.63, "roc_auc": 0.5},
        champion={metric: champion} if champion is not None else None,
        champion_name=against,
        verdicts=(Verdict("a", True, 1, 0, "fine"), Verdict("b", passed, 0, 1, "too low")),
    )
    ingested = SimpleNamespace(
        snapshot=Snapshot(rows=300_000),
        quarantined={"late.nullable": 9_000, "dep_time.max": 29},
        quarantine=Path("q/flights"),
        duplicates=1_200,
        promises={"rows.max": "the table has 300,000 rows, more than 200,000"},
    )
    whole = {"ingested": ingested, "swept": swept, "evaluation": judged, "version": Version(name="flights", version=7)} | more
    return Made("abc123", Path("runs/abc123"), dt.datetime(2024, 1, 1, tzinfo=dt.UTC), {"ingest": 10.0, "sweep": 51.4}, **whole)


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "command_word", lambda: "raycycle")


def text(of: Made, store: Store) -> str:
    return "\n".join(summary.lines(of, PLAN, store, 12.3))


def test_a_candidate_that_waits_is_told_with_the_command_that_releases_it(store: Store) -> None:
    told = text(made(), store)
    assert "flights: run abc123, 12 s" in told
    assert "data      flights@3, 300,000 rows; 1,200 duplicates removed; 9,029 quarantined in q/flights" in told
    assert "warning: the table has 300,000 rows, more than 200,000" in told
    assert "won       xgboost, trial 2 of 4 (depth 6, rate 0.123)" in told
    assert "log_loss 0.5500 on validation; linear 0.5800" in told
    assert "mlp" not in told, "a stopped trial beat nobody"
    assert "holdout   log_loss 0.5200 [0.5100, 0.5300], roc_auc 0.7700 [0.7600, 0.7800] on 1,234 rows" in told
    assert "against   a constant answer: log_loss 0.6300" in told
    assert "gates     2 of 2 passed" in told
    assert told.endswith("next: raycycle deploy flights 7")


def test_a_refused_candidate_says_why_and_that_the_champion_stays(store: Store) -> None:
    told = text(made(passed=False, champion=0.51, against="flights/6"), store)
    assert "champion flights/6: log_loss 0.5100" in told
    assert "gates     1 of 2 passed" in told
    assert "refused" in told
    assert "b: too low" in told
    assert told.endswith("next: raycycle report abc123")
    assert "champion flights/6 stays" in told
    assert "champion flights/6 stays" in text(made(passed=False, against="flights/6"), store), "though it could not be compared"
    assert "champion" not in text(made(passed=False), store)


def test_a_released_model_ends_with_a_command_to_ask_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "curl", lambda of, store: "curl -s http://127.0.0.1:8000/v1/predict/flights")
    scored = SimpleNamespace(rows=29_000, output=Path("scores"), by={"8": {"rows": 3.0, "roc_auc": 0.71, "brier": 0.1}})
    told = text(made(scored=scored, score_input=Path("in"), report=Path("report.html")), store)
    assert "scored    29,000 rows of in in scores\n            month 8: roc_auc 0.7100" in told
    assert "report    report.html" in told
    assert "ask it:\ncurl -s http://127.0.0.1:8000" in told
    assert "next: raycycle score flights in scores/" in told


def test_a_run_that_ended_early_tells_what_there_is(store: Store) -> None:
    nothing = {"swept": None, "evaluation": None, "version": None}
    assert text(made(**nothing, ingested=None), store) == "\nflights: run abc123, 12 s"
    told = text(made(evaluation=None, version=None), store)
    assert "won       xgboost" in told
    assert "next:" not in told
    assert text(made(**nothing), store).count("\n") == 3
