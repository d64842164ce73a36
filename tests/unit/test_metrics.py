"""Metrics against scikit-learn, cuts and intervals against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from conf.errors import UsageError
from tables.target import default_metric
from trainers.metrics import (
    BY_TASK,
    HIGHER_IS_BETTER,
    better,
    bootstrap,
    calibration,
    calibration_error,
    check_metric,
    choose_threshold,
    loss,
    one_metric,
    score,
)

# Few different scores, so that ties are common.
scored = st.lists(st.tuples(st.booleans(), st.integers(0, 8).map(lambda n: n / 8)), min_size=1, max_size=40)
numbers = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=30)


def columns(rows: list) -> tuple[np.ndarray, np.ndarray]:
    return np.array([y for y, _ in rows], float), np.array([p for _, p in rows], float)


@given(scored)
def test_binary_metrics_are_those_of_scikit_learn(rows: list) -> None:
    y, p = columns(rows)
    found = score("binary", y, p)
    both = 0 < y.sum() < len(y)
    wanted = {
        "log_loss": sk.log_loss(y, p, labels=[0, 1]),
        "brier": sk.brier_score_loss(y, p, labels=[0, 1], pos_label=1),
        "accuracy": sk.accuracy_score(y, p >= 0.5),
        "f1_macro": sk.f1_score(y, p >= 0.5, average="macro", zero_division=0),
    }
    wanted |= {"roc_auc": sk.roc_auc_score(y, p)} if both else {}
    wanted |= {"average_precision": sk.average_precision_score(y, p)} if y.any() else {}
    assert found == pytest.approx(wanted)


@given(st.integers(2, 5), st.integers(5, 40), st.integers(0, 10_000))
def test_multiclass_metrics_are_those_of_scikit_learn(classes: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    y = np.r_[np.arange(classes), random.integers(0, classes, rows)].astype(float)
    p = random.dirichlet(np.ones(classes), len(y))
    labels = range(classes)
    wanted = {
        "log_loss": sk.log_loss(y, p, labels=labels),
        "brier": sk.brier_score_loss(y, p, labels=labels) if classes > 2 else np.mean(((p - np.eye(2)[y.astype(int)]) ** 2).sum(axis=1)),
        "accuracy": sk.accuracy_score(y, p.argmax(axis=1)),
        "f1_macro": sk.f1_score(y, p.argmax(axis=1), average="macro", zero_division=0),
        "roc_auc": sk.roc_auc_score(y, p, multi_class="ovr", labels=labels) if classes > 2 else sk.roc_auc_score(y, p[:, 1]),
    }
    assert score("multiclass", y, p) == pytest.approx(wanted)


def test_a_class_that_does_not_occur_is_left_out_of_the_mean_area() -> None:
    y = np.array([0.0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1]])
    areas = [sk.roc_auc_score(y == k, p[:, k]) for k in (0, 1)]
    assert score("multiclass", y, p)["roc_auc"] == pytest.approx(np.mean(areas))


@given(numbers)
def test_regression_metrics_are_those_of_scikit_learn(rows: list) -> None:
    y, p = columns(rows)
    found = score("regression", y, p)
    assert np.isfinite(list(found.values())).all()
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, p))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, p))
    if len(set(y)) > 1 and np.ptp(y) > 1e-3:
        assert found["r2"] == pytest.approx(sk.r2_score(y, p), rel=1e-6, abs=1e-9)


def test_what_the_rows_cannot_give_is_left_out() -> None:
    ones = np.ones(4)
    assert "roc_auc" not in score("binary", ones, ones)
    assert not {"roc_auc", "average_precision"} & set(score("binary", ones * 0, ones))
    assert "r2" not in score("regression", ones, ones * 2)
    assert all(np.isfinite(list(score("binary", ones, np.array([0.0, 1, 0, 1])).values())))


def test_loss_and_better_point_the_same_way() -> None:
    for name, higher in HIGHER_IS_BETTER.items():
        assert better(name, 2.0, 1.0) is higher
        assert (loss(name, 2.0) < loss(name, 1.0)) is higher
    assert {name for names in BY_TASK.values() for name in names} == set(HIGHER_IS_BETTER)


def test_the_metric_follows_the_task_and_a_wrong_one_is_refused() -> None:
    assert [default_metric("binary", 0.4), default_metric("binary", 0.05)] == ["log_loss", "average_precision"]
    assert [default_metric("multiclass", 0.0), default_metric("regression", 0.0)] == ["log_loss", "rmse"]
    assert check_metric("r2", "regression") == "r2"
    with pytest.raises(UsageError, match="did you mean 'roc_auc'"):
        check_metric("rocauc", "binary")
    with pytest.raises(UsageError, match="does not fit"):
        check_metric("average_precision", "multiclass")


@settings(max_examples=40)
@given(scored)
def test_the_cut_is_the_best_macro_f1_among_cuts_as_accurate_as_the_rows_can_tell(rows: list) -> None:
    y, p = columns(rows)
    cuts = [float(cut) for cut in sorted(set(p))]

    def at(cut: float) -> tuple[float, float]:
        return one_metric("accuracy", "binary", y, p, cut), sk.f1_score(y, p >= cut, average=None, labels=[0, 1], zero_division=0).sum()

    best = max(at(cut)[0] for cut in cuts)
    allowed = [cut for cut in cuts if at(cut)[0] >= best - np.sqrt(best * (1 - best) / len(y)) - 1e-12]
    chosen = choose_threshold(y, p)
    assert at(chosen)[1] == pytest.approx(max(at(cut)[1] for cut in allowed))
    assert at(chosen)[0] >= best - np.sqrt(best * (1 - best) / len(y)) - 1e-12


@pytest.mark.parametrize("low", [0.3, float(np.nextafter(0.3, 1)), 0.5, float(np.nextafter(0.5, 0))])
def test_a_cut_between_neighbouring_numbers_still_parts_them(low: float) -> None:
    high = np.nextafter(low, 1)
    cut = choose_threshold(np.array([0.0, 0, 1, 1]), np.array([low, low, high, high]))
    assert (np.array([low, high]) >= cut).tolist() == [False, True]


def test_a_rare_class_is_not_ignored() -> None:
    random = np.random.default_rng(0)
    y = (random.random(2_000) < 0.05).astype(float)
    p = np.clip(0.05 + 0.2 * y + random.normal(size=2_000) * 0.05, 0, 0.49)
    assert (p >= 0.5).sum() == 0
    assert (p >= choose_threshold(y, p))[y > 0].mean() > 0.5


def test_bootstrap_covers_the_mean_and_repeats_itself() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    error, low, high = bootstrap(lambda rows: float(values[rows].mean()), 400, seed=3)
    assert error == pytest.approx(values.std() / 20, rel=0.2)
    assert low < values.mean() < high
    assert (error, low, high) == bootstrap(lambda rows: float(values[rows].mean()), 400, seed=3)
    assert np.isnan(bootstrap(lambda rows: float("nan"), 10, seed=0)).all()


@given(scored, st.integers(1, 10))
def test_calibration_bins_hold_every_row_once(rows: list, bins: int) -> None:
    y, p = columns(rows)
    groups = calibration(y, p, bins)
    assert sum(group["rows"] for group in groups) == len(y)
    assert sum(group["rows"] * group["observed"] for group in groups) == pytest.approx(y.sum())
    assert max(g["rows"] for g in groups) - min(g["rows"] for g in groups) <= 1
    assert [g["predicted"] for g in groups] == sorted(g["predicted"] for g in groups)
    assert 0 <= calibration_error(y, p, bins) <= 1


def test_calibration_error_is_the_distance_of_what_was_said_from_what_came() -> None:
    y, p = np.array([0.0, 1] * 50), np.full(100, 0.8)
    assert calibration_error(y, p, 1) == pytest.approx(0.3)
    assert calibration_error(y, np.full(100, 0.5), 1) == 0
