"""The report page: what it shows for each task, that nothing in the data can break out of it, and that it stays small."""

from __future__ import annotations

import dataclasses
import functools
import html
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from cluster.progress import Progress
from flows import plots
from flows.charts import confusion
from flows.evaluate import quality
from flows.evaluation import Evaluation, Quality
from flows.gates import Verdict, constant_scores
from flows.ingest import Ingested
from flows.leaks import Probe
from flows.prepared import Prepared, Rows
from flows.report import render, report
from flows.score import Scored
from flows.story import Story, difference, number
from flows.sweep import Swept
from flows.trial import Trial
from tables.contract import Column, Contract
from tables.encoder import Encoder, NumericSpec
from tables.features import Feature
from tables.rows import TableDigest
from tables.snapshots import Snapshot
from tables.splits import HashSplit
from tables.target import Target
from trainers.family import Family
from trainers.metrics import calibration, score
from trainers.protocol import Matrix
from trainers.space import Choice, Interval

HOSTILE = ("<script>alert(1)</script>", "$x^2$ & $y$", "\"quoted\" 'too'", "größe 大小 😀", "a_{b}\\frac", "--> <!-- -->", "line\nbreak")
METRICS = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}
NO_ROWS = Matrix(np.zeros((0, 1), np.float32), np.zeros(0), ())
SPACE = {
    "learning_rate": Interval(0.01, 0.3, log=True),
    "max_depth": Interval(2, 10, step=1),
    "subsample": Interval(0.5, 1.0),
    "grow_policy": Choice(("depthwise", "lossguide")),
}


def trials(task: str, metric: str, failing: bool = True) -> tuple[Trial, ...]:
    generator = np.random.default_rng(1)
    found, ends = [], [0.0, 0.0]
    base = {"linear": 0.52, "xgboost": 0.47, "lightgbm": 0.468, "mlp": 0.49}
    for n in range(24):
        family = list(base)[n % 4] if n < 8 else str(generator.choice(list(base), p=[0.1, 0.4, 0.4, 0.1]))
        rate, depth = float(np.exp(generator.uniform(np.log(0.01), np.log(0.3)))), int(generator.integers(2, 11))
        params = {"learning_rate": rate, "max_depth": depth, "subsample": float(generator.uniform(0.5, 1)), "grow_policy": "depthwise"}
        value = base[family] + 0.02 * abs(np.log(rate / 0.06)) + 0.002 * abs(depth - 6) + 0.002 * generator.random()
        status = "failed" if failing and n in (9, 17) else "stopped" if n in (11, 14, 20) else "finished"
        worker = int(np.argmin(ends))
        seconds = float(generator.uniform(1, 7))
        found.append(
            Trial(
                n, family, params, False, status, float("inf") if status == "failed" else float(value) + (3 if n == 5 else 0),  # type: ignore[arg-type]
                {metric: float(value), **({"roc_auc": 0.77, "accuracy": 0.8} if task != "regression" else {"r2": 0.6})}, 0.43, 210,
                {0.1: 0.5}, seconds, 1000.0 + ends[worker], str(500 + worker),
                "ValueError: learning rate exploded <b>" if status == "failed" else "",
            )
        )  # fmt: skip
        ends[worker] += seconds
    return tuple(found)


def answers(task: str, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    if task == "binary":
        scores = generator.beta(1.4, 4.2, rows)
        return (generator.random(rows) < scores).astype(float), scores
    if task == "multiclass":
        raw = generator.normal(0, 1.6, (rows, classes))
        scores = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
        return (scores.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1).astype(float), scores
    true = np.exp(generator.normal(3, 0.6, rows))
    return true, true * np.exp(generator.normal(0, 0.25, rows))


def prepared(target: Target, rows: int, label: str, dropped: str, columns: list[str]) -> Prepared:
    kept = {name: Column(type="float") for name in columns}
    kept[label] = Column(type="float" if target.task == "regression" else "string", role="label")
    contract = Contract(name="flights", task=target.task, label=label, columns=kept)
    y = np.zeros(rows)
    keys = np.zeros(rows, np.uint64)
    parts = {name: Rows(Matrix(NO_ROWS.x, y, ()), keys, pa.table({})) for name in ("train", "valid", "holdout", "later")}
    encoder = Encoder([NumericSpec(name, 0.0, False) for name in columns], {dropped: "one value"})
    return Prepared(
        contract=contract,
        encoder=encoder,
        target=target,
        split=HashSplit(),
        parts=parts,
        reference={},
        positive_share=0.2,
        dropped_rows=3,
    )


def story(task: str = "binary", rows: int = 1_000, names: tuple[str, ...] = (), **changes: Any) -> Story:
    """A made-up run; `names` are used for classes, columns, groups, rules and stages."""
    pick = lambda i, usual: names[i % len(names)] if names else usual  # noqa: E731
    size = {"binary": 2, "multiclass": 4, "regression": 0}[task]
    target = Target(task, tuple(pick(i, c) for i, c in enumerate(("no", "yes", "maybe", "never")[:size])))  # type: ignore[arg-type]
    metric = METRICS[task]
    y, scores = answers(task, rows, size)
    constant = constant_scores(Matrix(np.zeros((rows, 1), np.float32), y, ()), target.task, size, rows)
    found = trials(task, metric)
    best = min((t for t in found if t.status == "finished"), key=lambda t: t.loss)
    params = {"learning_rate": 0.1, "max_depth": 6, "subsample": 1.0, "grow_policy": "depthwise", "reg_lambda": 1.0}
    family = Family(best.family, "trainers.x.X", params, SPACE)  # type: ignore[arg-type]
    group = np.arange(rows) % 5
    by = {pick(g, f"group {g}"): quality(target, y[group == g], scores[group == g], 0.43, 0, intervals=False) for g in range(5)}
    months = {str(8 + m): quality(target, y[m::5], scores[m::5], 0.43, 0, intervals=False) for m in range(5)}
    columns = [pick(i, f"column {i}") + ("" if i < 7 else f" {i}") for i in range(18)]
    overall = quality(target, y, scores, 0.43, 0, intervals=rows <= 10_000)
    evaluation = Evaluation(
        bundle=Path("/store/cache/stages/flights/evaluate/ab12cd/bundle"),
        digest="ab12cd",
        trial=best,
        params={**params, **best.params},
        target=target,
        holdout=overall,
        constant=score(target.task, y, constant, 0.43),
        champion={name: value * 0.99 for name, value in overall.metrics.items()},
        champion_name=pick(0, "flights v3"),
        later=months,
        slices={pick(0, "origin"): by, pick(1, "carrier"): dict(list(by.items())[:3])},
        calibration=calibration(y, scores) if task == "binary" else [],
        importance={name: 0.3 * 0.75**i for i, name in enumerate(columns)},
        leaks=Probe(task, tuple((Feature(name, "numeric", name), 0.68 - 0.02 * i) for i, name in enumerate(columns[:10])), ()),
        verdicts=(
            Verdict(
                "better_than_constant", True, 0.123, 0.01, "log loss is +12.3% better than a constant answer, need +1.0%", (0.118, 0.128)
            ),
            Verdict("calibrated", True, 0.0021, 0.02, "calibration error beyond chance 0.0021, allowed 0.0200"),
            Verdict(
                "not_worse", True, 0.0011, 0.0, f"log_loss is better than champion {pick(0, 'flights v3')} by +0.00110", (0.0004, 0.0018)
            ),
            Verdict("no_leak", True, 0.68, 0.95, f"the strongest feature alone, {columns[0]}, reaches 0.680"),
        ),
        y=y,
        scores=scores,
    )
    snapshot = Snapshot("flights", 0, Path("/store/tables/flights"), TableDigest(rows * 10, 1234567890123456789, 987654321), ())
    quarantined = {pick(0, "clock is 2400"): 29, pick(2, "wind above 200 mph"): 1, pick(1, "route EWR to LGA"): 1}
    made = Story(
        title=pick(0, "flights"),
        run_id="20260101-120000-ab12cd",
        when="2026-01-01T12:00:00Z",
        seconds={"ingest": 21.3, "prepare": 11.0, "sweep": 96.4, "evaluate": 14.2, "register": 2.1, "deploy": 9.9, pick(2, "score"): 4.0},
        config={"seed": 0, "dataset": {"name": pick(0, "flights"), "split": {"column": pick(1, "month")}}, "sweep": {"num_trials": 24}},
        ingested=Ingested(snapshot, quarantined, {pick(3, "odd tail number"): 4}, Path("/store/quarantine/flights")),
        prepared=prepared(target, rows, pick(1, "late"), pick(2, "year"), columns),
        swept=Swept(found, best, metric, folds=1, seed=0),
        evaluation=evaluation,
        family=family,
        release=f"{pick(0, 'flights')} version 4 passed every gate and is the champion now; it answers requests.",
        champion_name=pick(0, "flights v3"),
        version=4,
        scored=Scored(Path("/store/runs/ab12cd/scores"), 29_327, 3, {pick(0, "8"): {"roc_auc": 0.74, "log_loss": 0.45}}),
        endpoint="http://127.0.0.1:8000/v1/models/flights",
        curl='curl -H "Authorization: Bearer $(cat token)" -d \'{"rows": []}\' http://127.0.0.1:8000/v1/models/flights',
    )
    return dataclasses.replace(made, **changes)


def page(told: Story, folder: Path) -> str:
    return report(told, folder / "report.html", Progress(quiet=True)).file.read_text(encoding="utf-8")


@functools.lru_cache
def rendered(task: str, names: tuple[str, ...] = ()) -> str:
    return render(story(task, names=names))


def outside_tags(text: str) -> str:
    """What a reader sees: the page without its tags, unescaped."""
    return html.unescape(re.sub(r"<[^<>]*>", "\n", text))


@pytest.mark.parametrize(
    ("task", "drawings"),
    [
        ("binary", ("ROC curve", "Precision and recall", "Calibration", "Scores by class")),
        ("multiclass", ("Confusion", "Class by class", "Calibration of the predicted class")),
        ("regression", ("Predicted and true", "Residuals")),
    ],
)
def test_each_task_has_its_drawings_and_the_rest(task: str, drawings: tuple[str, ...]) -> None:
    shown = outside_tags(rendered(task))
    rest = ("Trial by trial", "Who worked when", "Parameters that mattered", "By origin", "Later periods", "Importance of columns")
    for title in (*drawings, *rest, "Leak probe", "Quarantine", "Time by stage", "Trials that failed", "Resolved configuration"):
        assert title in shown, title
    for fact in ("lightgbm", "passed 4 of 4 gates", "champion flights v3", "flights@0", "learning rate exploded <b>", "num_trials: 24"):
        assert fact in shown, fact


def test_page_needs_nothing_from_elsewhere() -> None:
    text = rendered("binary")
    assert not re.search(r"<(script|link|img|iframe|object|image)\b|@import|\bsrc=|url\((?!#)", text)
    assert set(re.findall(r'href="([^"#][^"]*)"', text)) == set()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_names_from_data_stay_text(task: str) -> None:
    text = rendered(task, HOSTILE)
    shown = outside_tags(text)
    assert "<script" not in text and "alert(1)</" not in text
    for name in (name for name in HOSTILE if "\n" not in name):
        assert name in shown, name
    assert "mathdefault" not in text and "$x^2$ & $y$" in shown
    drawings = re.findall(r"<svg .*?</svg>", text)
    assert len(drawings) > 12
    for svg in drawings:
        ElementTree.fromstring(svg)
    assert any("$x^2$ & $y$" in outside_tags(svg) for svg in drawings)


def test_same_story_same_bytes(tmp_path: Path) -> None:
    assert page(story("multiclass", names=HOSTILE), tmp_path) == rendered("multiclass", HOSTILE)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_million_rows_stay_under_a_megabyte(task: str, tmp_path: Path) -> None:
    assert len(page(story(task, rows=1_000_000), tmp_path)) < 400_000


def test_thousands_of_trials_groups_and_columns_stay_under_a_megabyte(tmp_path: Path) -> None:
    told = story()
    many = tuple(dataclasses.replace(told.swept.trials[n % 24], number=n, reason="x" * 5_000) for n in range(3_000))
    groups = {f"group {n}": told.evaluation.holdout for n in range(500)}
    evaluation = dataclasses.replace(
        told.evaluation,
        slices={f"slice {n}": groups for n in range(20)},
        later=dict(list(groups.items())[:60]),
        importance={f"column {n}": 1 / (n + 1) for n in range(10_000)},
    )
    swept = dataclasses.replace(told.swept, trials=many)
    text = page(dataclasses.replace(told, swept=swept, evaluation=evaluation, seconds={}), tmp_path)
    assert len(text.encode()) < 1_000_000
    assert "the 20 largest of 500 groups" in text


def test_refused_candidate_says_why_at_the_top(tmp_path: Path) -> None:
    told = story()
    reason = "log_loss is better than champion flights v3 by -0.00300, need +0.00000"
    verdicts = (*told.evaluation.verdicts[:2], Verdict("not_worse", False, -0.003, 0.0, reason, (-0.004, -0.002)))
    evaluation = dataclasses.replace(told.evaluation, verdicts=verdicts)
    release = f"flights/4 was refused; champion flights/3 stays: not_worse: {reason}"
    shown = outside_tags(page(dataclasses.replace(told, evaluation=evaluation, release=release, endpoint=None, curl=None), tmp_path))
    assert "refused by 1 of 3 gates" in shown
    assert shown.index(release) < shown.index("On rows nobody trained on")
    assert "-0.0030" in shown and "-0.0040 to -0.0020" in shown
    assert "Ask it" not in shown


def test_first_run_has_no_champion_and_no_score(tmp_path: Path) -> None:
    told = story(rows=60, champion_name="", version=None, scored=None, endpoint=None, curl=None)
    bare = dataclasses.replace(told.evaluation, champion=None, later={}, slices={}, importance={}, verdicts=())
    ingested = dataclasses.replace(told.ingested, quarantined={}, warned={})
    shown = outside_tags(page(dataclasses.replace(told, evaluation=bare, ingested=ingested), tmp_path))
    assert "champion" not in shown.replace("is the champion now", "")
    assert "No row broke the contract." in shown and "none registered" in shown


@pytest.mark.parametrize(
    ("task", "answer"),
    [("binary", 0.25), ("multiclass", 0.25), ("regression", 0.25), ("binary", float("nan")), ("regression", float("inf"))],
)
def test_a_model_without_sense_still_has_a_page(task: str, answer: float, tmp_path: Path) -> None:
    told = story(task, rows=200)
    scores = np.full_like(told.evaluation.scores, answer)
    evaluation = dataclasses.replace(told.evaluation, scores=scores, holdout=Quality(200, {}, {}), y=np.zeros(200))
    if task == "binary":
        evaluation = dataclasses.replace(evaluation, calibration=calibration(evaluation.y, scores))
    shown = outside_tags(page(dataclasses.replace(told, evaluation=evaluation), tmp_path))
    assert "cannot be compared" in shown
    assert ("no finite numbers" in shown) == (not np.isfinite(answer))


def test_importance_of_parameters_says_why_it_is_missing(tmp_path: Path) -> None:
    told = story()
    few = tuple(t for t in told.swept.trials if t.family != "lightgbm" or t.number == told.swept.best.number)
    shown = outside_tags(page(dataclasses.replace(told, swept=dataclasses.replace(told.swept, trials=few)), tmp_path))
    assert "Only 1 of its trials finished; at least 5 are needed" in shown


def test_many_classes_are_folded_into_the_largest() -> None:
    truth = np.repeat(np.arange(40), np.arange(40, 0, -1))
    names, table = confusion([f"class {k}" for k in range(40)], truth, truth)
    assert names[0] == "class 0" and names[-1] == "29 others" and table.shape == (12, 12)
    assert table.sum() == len(truth) and (table == np.diag(table.diagonal())).all()


def test_ranks_share_ties() -> None:
    hits, seen = plots.ranked(np.array([1.0, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1]))
    assert hits.tolist() == [1, 2, 2] and seen.tolist() == [1, 3, 4]


@pytest.mark.parametrize(
    ("value", "text"), [(0.43124, "0.4312"), (0.0, "0.0000"), (15.712, "15.71"), (1e-5, "1e-05"), (123456.7, "123,457"), (None, "–")]
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


def test_difference_knows_which_way_is_better() -> None:
    assert difference("log_loss", 0.4, 0.5) == "0.1000 better"
    assert difference("roc_auc", 0.7, 0.75) == "0.0500 worse"
    assert difference("rmse", 1.0, 1.0) == "equal"
