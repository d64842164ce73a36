"""One trial, whatever its family does: finished, stopped or failed, but always told."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from conf.errors import UsageError
from conf.schema import Sweep
from flows import sweep as stage
from flows.prepared import Prepared, Rows
from flows.sweep import _folds, best_by_family, best_of, log_targets, sweep_data
from flows.trial import Data, Proposal, Trial, fit, joined, run_trial
from tables.features import Feature
from tables.splits import HashSplit, Split, TimeSplit
from tables.target import Target
from trainers.family import Family
from trainers.linear import Linear
from trainers.protocol import Context, Matrix
from trainers.space import Choice

BINARY = Target("binary", ("no", "yes"))
BY_ROW = HashSplit()
FEATURES = (Feature("x", "numeric", "x"),)


@dataclass
class Fake:
    """A family that answers what the test says, and notes what it was asked."""

    answer: Any
    steps: int | None = None
    losses: tuple[float, ...] = ()
    asked: ClassVar[list[tuple[Matrix, Matrix | None, Context]]] = []

    name = "fake"
    resources = Family("fake", "").resources

    def trainer(self) -> Fake:
        return self

    def build_params(self, params: dict) -> dict:
        return params

    def fit(self, train: Matrix, valid: Matrix | None, params: Any, context: Context) -> Fake:
        Fake.asked.append((train, valid, context))
        for done, loss in enumerate(self.losses, 1):
            if context.report(done / len(self.losses), lambda loss=loss: np.full(len(valid.y), np.exp(-loss))):  # type: ignore[misc, union-attr]
                break
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.answer(x) if callable(self.answer) else self.answer


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    Fake.asked.clear()


def matrix(y: list[float] | np.ndarray) -> Matrix:
    return Matrix(np.arange(len(y), dtype=np.float32)[:, None], np.asarray(y, float), FEATURES)


def data(target: Target = BINARY, metric: str = "log_loss", folds: np.ndarray | None = None, valid: list[float] | None = None) -> Data:
    if folds is not None:
        return Data(matrix([0.0, 1] * (len(folds) // 2)), None, folds, target, metric, 7)
    return Data(matrix([0.0, 1, 0, 1]), matrix(valid or [0.0, 1, 1]), None, target, metric, 7)


def run(family: Fake, on: Data, rungs: list[float] | None = None, log: bool = False, **bounds: float) -> Trial:
    limits = {float(name[1:]) / 10: value for name, value in bounds.items()}
    return run_trial(Proposal(3, "fake", {"p": 1}, log, limits), family, on, rungs or [])  # type: ignore[arg-type]


def test_a_good_trial_has_its_metrics_threshold_and_steps() -> None:
    trial = run(Fake(np.array([0.1, 0.8, 0.7]), steps=5), data())
    assert (trial.number, trial.status, trial.params, trial.steps, trial.reason) == (3, "finished", {"p": 1}, 5, "")
    assert trial.loss == pytest.approx(log_loss([0, 1, 1], [0.1, 0.8, 0.7]))
    assert trial.metrics["log_loss"] == pytest.approx(trial.loss)
    assert trial.metrics["roc_auc"] == 1.0
    assert 0.1 < trial.threshold <= 0.7
    assert Fake.asked[0][2] == Context("binary", 2, seed=7, report=Fake.asked[0][2].report)


def test_a_metric_to_make_large_is_a_loss_to_make_small() -> None:
    assert run(Fake(np.array([0.1, 0.8, 0.7])), data(metric="roc_auc")).loss == -1.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.array([0.1, np.nan, 0.7]), "log_loss is nan"),
        (np.array([[0.1], [0.8], [0.7]]), r"shape \(3, 1\), not \(3,\)"),
        (np.array([0.1, 0.8]), r"shape \(2,\), not \(3,\)"),
        (np.array([[0.9, 0.1]] * 3), r"shape \(3, 2\), not \(3,\)"),
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        ("nonsense", "AttributeError"),
    ],
)
def test_whatever_goes_wrong_is_a_failed_trial_with_its_reason(answer: object, said: str) -> None:
    trial = run(Fake(answer), data())
    assert (trial.status, trial.loss, trial.number) == ("failed", math.inf, 3)
    import re

    assert re.search(said, trial.reason)


def test_predictions_of_too_many_classes_are_no_score() -> None:
    three = Target("multiclass", ("a", "b", "c"))
    on = data(three, valid=[0.0, 1, 2])
    assert run(Fake(np.eye(3)), on).status == "finished"
    assert run(Fake(np.eye(4)[:3]), on).status == "failed"


def test_a_log_target_is_learned_on_its_scale_and_judged_in_the_labels_unit() -> None:
    number = Target("regression")
    on = Data(matrix([0.0, 9, 99]), matrix([9.0, 99]), None, number, "rmse", 0)
    trial = run(Fake(np.log1p([9.0, 99.0])), on, log=True)
    assert trial.loss == pytest.approx(0, abs=1e-9)
    learned, watched, _ = Fake.asked[0]
    assert learned.y.tolist() == pytest.approx(np.log1p([0, 9, 99]).tolist())
    assert watched is not None
    assert watched.y.tolist() == pytest.approx(np.log1p([9, 99]).tolist())
    assert run(Fake(np.array([1e4, 1e4])), on, log=True).status == "failed", "expm1 of it is infinite"


def test_a_trial_above_the_bound_of_a_rung_stops_there() -> None:
    losses = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1)
    family, on = Fake(np.array([0.9, 0.9, 0.9]), losses=losses), data(valid=[1.0, 1, 1])
    free = run(family, on, [0.1, 0.3])
    assert (free.status, free.rungs) == ("finished", {0.1: pytest.approx(0.9), 0.3: pytest.approx(0.7)})
    late = run(family, on, [0.1, 0.3], r1=1.0, r3=0.69)
    assert (late.status, late.reason, sorted(late.rungs)) == ("stopped", "behind at a rung", [0.1, 0.3])
    early = run(family, on, [0.1, 0.3], r1=0.89)
    assert (early.status, sorted(early.rungs)) == ("stopped", [0.1])
    assert run(family, on, [0.1, 0.3], r1=0.91, r3=0.71).status == "finished"


def test_a_family_of_one_step_passes_all_rungs_at_once() -> None:
    trial = run(Fake(np.array([0.9, 0.9, 0.9]), losses=(0.5,)), data(valid=[1.0, 1, 1]), [0.1, 0.3])
    assert trial.rungs == {0.3: pytest.approx(0.5)}


def test_cross_validation_predicts_every_row_by_a_model_that_has_not_seen_it() -> None:
    folds = np.array([0, 1, 2] * 4)
    steps = iter([10, 30, 50])

    class Folded(Fake):
        def predict(self, x: np.ndarray) -> np.ndarray:
            train, valid, _ = Fake.asked[-1]
            assert not set(train.x[:, 0]) & set(x[:, 0])
            assert valid is not None
            assert set(valid.x[:, 0]) == set(x[:, 0])
            self.steps = next(steps)
            return np.where(x[:, 0] % 2 == 1, 0.9, 0.1)

    trial = run(Folded(None), data(folds=folds), [0.1])
    assert trial.status == "finished"
    assert trial.loss == pytest.approx(-np.log(0.9))
    assert trial.steps == 30, "the median of the folds"
    assert len(Fake.asked) == 3
    assert trial.rungs == {}


@given(st.lists(st.integers(0, 3), min_size=5, max_size=80), st.integers(2, 5), st.integers(0, 99))
def test_each_fold_is_like_the_whole(classes: list[int], number: int, seed: int) -> None:
    y = np.array(classes, float)
    folds = _folds(y, number, seed)
    assert (folds == _folds(y, number, seed)).all()
    for rows in [y == each for each in set(classes)] + [np.ones(len(y), bool)]:
        counts = np.bincount(folds[rows], minlength=number)
        assert counts.max() - counts.min() <= 1


def prepared(train: int, valid: int, split: Split = BY_ROW, target: Target = BINARY) -> Prepared:
    counts = {"train": train, "valid": valid}
    parts = {name: Rows(matrix([0.0, 1] * (n // 2)), np.arange(n, dtype=np.uint64), pa.table({})) for name, n in counts.items()}
    return Prepared(None, None, target, parts, {}, 0.5, 0, split)  # type: ignore[arg-type]


def test_small_tables_without_an_order_are_cross_validated() -> None:
    small = sweep_data(prepared(100, 20), Sweep(), 0)
    assert small.valid is None
    assert small.folds is not None
    assert (len(small.train.y), int(small.folds.max())) == (120, 4)
    ordered, grouped = TimeSplit(column="month", valid_from=8, holdout_from=9), HashSplit(by="customer")
    for other in (prepared(100, 20, ordered), prepared(100, 20, grouped), prepared(stage.CROSS_VALIDATED_ROWS, 20)):
        kept = sweep_data(other, Sweep(), 0)
        assert kept.folds is None
        assert kept.valid is not None
        assert len(kept.valid.y) == 20
    asked = sweep_data(prepared(5_000, 20), Sweep(folds=3), 0)
    assert asked.folds is not None
    assert sweep_data(prepared(100, 20), Sweep(folds=1), 0).folds is None


def test_the_metric_is_that_of_the_task_or_the_one_asked_for() -> None:
    assert sweep_data(prepared(100, 20), Sweep(), 0).metric == "log_loss"
    assert sweep_data(prepared(100, 20), Sweep(metric="roc_auc"), 0).metric == "roc_auc"
    with pytest.raises(UsageError, match="does not fit"):
        sweep_data(prepared(100, 20), Sweep(metric="rmse"), 0)


@pytest.mark.parametrize(
    ("y", "tried"),
    [
        (np.exp(np.linspace(0, 5, 200)), (False, True)),
        (np.exp(np.linspace(0, 5, 200)) - 2, (False,)),
        (np.linspace(0, 5, 200), (False,)),
        (-np.exp(np.linspace(0, 5, 200)), (False,)),
        (np.full(200, 3.0), (False,)),
    ],
)
def test_a_log_target_is_tried_only_where_the_label_is_skewed_and_never_negative(y: np.ndarray, tried: tuple[bool, ...]) -> None:
    assert log_targets(Target("regression"), y) == tried
    assert log_targets(BINARY, y) == (False,)


def finished(number: int, loss: float, status: str = "finished") -> Trial:
    return Trial(number, "fake", {}, False, status, loss, {}, 0.5, None, {}, 0.0)  # type: ignore[arg-type]


def test_the_best_is_the_first_with_the_smallest_loss_that_finished() -> None:
    trials = [finished(2, 0.5), finished(1, 0.5), finished(3, 0.1, "stopped"), finished(4, math.inf, "failed")]
    assert best_of(trials) == trials[1]
    assert best_of(trials[2:]) is None


def test_families_are_ranked_by_their_best_finished_trial() -> None:
    trials = [finished(0, 0.5), dataclasses.replace(finished(1, 0.4), family="b"), finished(2, 0.6), finished(3, 0.1, "stopped")]
    assert {name: trial.number for name, trial in best_by_family(trials).items()} == {"b": 1, "fake": 0}
    assert next(iter(best_by_family(trials))) == "b"


def test_a_refit_takes_the_steps_it_is_told_and_sees_no_validation_rows() -> None:
    both = joined(matrix([0.0, 1]), matrix([1.0]))
    assert both.y.tolist() == [0, 1, 1]
    fit(Fake(None), {}, both, None, BINARY, seed=5, steps=12)  # type: ignore[arg-type]
    (train, valid, context) = Fake.asked[0]
    assert (train.y.tolist(), valid, context.steps, context.seed) == ([0, 1, 1], None, 12, 5)


def test_a_real_family_learns_through_the_same_door() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 1)).astype(np.float32)
    y = (x[:, 0] + random.normal(size=300) * 0.3 > 0).astype(float)
    on = Data(Matrix(x[:200], y[:200], FEATURES), Matrix(x[200:], y[200:], FEATURES), None, BINARY, "roc_auc", 0)
    family = Family("linear", "trainers.linear.Linear", {"l2": 1.0}, {"l2": Choice((1.0, 2.0))})
    trial = run_trial(Proposal(0, "linear", {"l2": 2.0}, False), family, on, [0.1])
    assert trial.status == "finished"
    assert trial.metrics["roc_auc"] > 0.9
    assert isinstance(family.trainer(), Linear)
    assert run_trial(Proposal(0, "linear", {"l2": -1.0}, False), family, on, []).status == "failed"
