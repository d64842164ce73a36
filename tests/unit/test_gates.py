"""Gates on made-up evidence: what passes, what does not, and a reason with the numbers either way."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from conf.errors import UsageError
from flows.gates import BetterThanConstant, Calibrated, Evidence, MinMetric, NoLeak, NotWorse, Verdict, constant_scores, refused
from flows.leaks import Probe, Suspect
from tables.features import Feature
from trainers.protocol import Matrix

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.uniform(0.05, 0.95, 3_000)
Y = (RANDOM.random(3_000) < TRUTH).astype(float)
FEATURE = Feature("x", "numeric", "x")


def evidence(scores: np.ndarray = TRUTH, y: np.ndarray = Y, **more: object) -> Evidence:
    found = {
        "task": "binary",
        "metric": "log_loss",
        "threshold": 0.5,
        "y": y,
        "scores": scores,
        "constant_scores": np.full(len(y), y.mean()),
        "table": pa.table({}),
        "champion_scores": None,
        "champion_name": "",
        "leaks": Probe("binary", ((FEATURE, 0.7),), ()),
        "seed": 0,
    }
    return Evidence(**{**found, **more})  # type: ignore[arg-type]


def test_a_model_that_knows_something_beats_the_constant() -> None:
    verdict = BetterThanConstant(at_least=0.01).check(evidence())
    assert verdict.passed
    assert verdict.interval is not None
    assert verdict.value is not None
    assert 0.01 < verdict.interval[0] < verdict.value < verdict.interval[1]


@pytest.mark.parametrize("scores", [np.full(3_000, Y.mean()), RANDOM.permutation(TRUTH), 1 - TRUTH])
def test_a_model_that_knows_nothing_does_not(scores: np.ndarray) -> None:
    verdict = BetterThanConstant(at_least=0.01).check(evidence(scores))
    assert not verdict.passed
    assert "need +1.0%" in verdict.reason


def test_the_constant_is_beaten_in_the_metric_of_the_sweep() -> None:
    verdict = BetterThanConstant(at_least=0.01).check(evidence(metric="roc_auc"))
    assert verdict.value == pytest.approx((evidence().candidate["roc_auc"] - 0.5) / 0.5)


def test_honest_probabilities_are_calibrated_and_bold_ones_are_not() -> None:
    gate = Calibrated(at_most=0.02)
    assert gate.check(evidence()).passed
    bold = gate.check(evidence(np.where(TRUTH > 0.5, 0.99, 0.01)))
    assert not bold.passed
    assert bold.value is not None
    assert bold.value > 0.1
    assert gate.check(evidence()) == gate.check(evidence()), "the draws of chance are the same each time"


def test_chance_on_few_rows_is_not_held_against_a_model() -> None:
    passed = [Calibrated(at_most=0.05).check(evidence(TRUTH[at : at + 40], Y[at : at + 40])).passed for at in range(0, 2_000, 40)]
    assert np.mean(passed) > 0.7


def test_calibration_of_classes_and_numbers() -> None:
    shares = np.random.default_rng(1).dirichlet(np.ones(3) * 2, 3_000)
    y = np.array([np.random.default_rng(i).choice(3, p=share) for i, share in enumerate(shares)], float)
    gate = Calibrated(at_most=0.03)
    assert gate.check(evidence(shares, y, task="multiclass")).passed
    assert not gate.check(evidence(np.eye(3)[shares.argmax(axis=1)], y, task="multiclass")).passed
    number = np.random.default_rng(2).normal(size=3_000)
    assert gate.check(evidence(number * 0.5, number, task="regression", metric="rmse")).passed
    assert not gate.check(evidence(number + 0.2, number, task="regression", metric="rmse")).passed


def test_without_a_champion_nothing_is_worse() -> None:
    assert NotWorse(at_least=0).check(evidence()) == Verdict("not_worse", True, None, 0, "there is no champion yet")
    told = NotWorse(at_least=0).check(evidence(champion_name="champion t/1 answers another question"))
    assert (told.passed, told.reason) == (True, "champion t/1 answers another question")


@pytest.mark.parametrize("metric", ["log_loss", "roc_auc"])
def test_the_champion_is_beaten_or_stays(metric: str) -> None:
    worse = np.clip(TRUTH + RANDOM.normal(size=3_000) * 0.3, 0.01, 0.99)
    up, down = (
        NotWorse(at_least=0.001).check(evidence(scores, champion_scores=other, champion_name="t/1", metric=metric))
        for scores, other in ((TRUTH, worse), (worse, TRUTH))
    )
    assert (up.passed, down.passed) == (True, False)
    assert up.value == pytest.approx(-down.value)  # type: ignore[operator]
    assert "t/1" in down.reason
    assert down.interval is not None
    assert down.interval[1] < 0
    assert NotWorse(at_least=0).check(evidence(champion_scores=TRUTH, champion_name="t/1")).passed, "an equal is not worse"


def test_a_leak_is_named_with_what_to_do() -> None:
    leaky = Probe("binary", ((FEATURE, 0.999), (Feature("z", "numeric", "z"), 0.6)), (Suspect("gone", 1.0, "rows where gone is missing"),))
    verdict = NoLeak(at_most=0.99).check(evidence(leaks=leaky))
    assert not verdict.passed
    assert verdict.value == pytest.approx(0.999)
    assert all(word in verdict.reason for word in ("x: alone reaches 0.999", "gone", "role: observed"))
    assert NoLeak(at_most=0.99).check(evidence()).passed


def test_a_metric_has_to_reach_its_value_from_its_side() -> None:
    auc, loss = evidence().candidate["roc_auc"], evidence().candidate["log_loss"]
    for metric, value in (("roc_auc", auc), ("log_loss", loss)):
        good, bad = (value - 0.01, value + 0.01) if metric == "roc_auc" else (value + 0.01, value - 0.01)
        assert MinMetric(metric=metric, at_least=good).check(evidence()).passed
        assert not MinMetric(metric=metric, at_least=bad).check(evidence()).passed


def test_a_metric_that_the_rows_cannot_give_is_no_pass_and_no_number() -> None:
    verdict = MinMetric(metric="roc_auc", at_least=0.1).check(evidence(y=np.ones(3_000)))
    assert (verdict.passed, verdict.value) == (False, None)
    with pytest.raises(UsageError, match="did you mean 'roc_auc'"):
        MinMetric(metric="rocauc", at_least=0.5)


def test_refusals_name_gate_and_reason() -> None:
    assert refused((Verdict("a", True, 1, 0, "fine"), Verdict("b", False, 0, 1, "too low"))) == ["b: too low"]


def test_constant_scores_are_the_training_mean_or_the_shares_of_the_classes() -> None:
    train = Matrix(np.zeros((4, 1), np.float32), np.array([0.0, 1, 1, 2]), ())
    assert constant_scores(train, "regression", 0, 2).tolist() == [1.0, 1.0]
    assert constant_scores(train, "multiclass", 4, 2).tolist() == [[0.25, 0.5, 0.25, 0.0]] * 2
