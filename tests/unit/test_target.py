"""The label as numbers and back, for the three tasks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import UsageError
from tables import sketches
from tables.contract import Column, Contract
from tables.target import Target, label_sketch, prediction_type


def contract(task: str, kind: str = "string", positive: object = None) -> Contract:
    columns = {"x": Column(type="int64"), "y": Column(type=kind, role="label")}  # type: ignore[arg-type]
    return Contract(name="t", task=task, label="y", columns=columns, positive=positive)  # type: ignore[arg-type]


def target(task: str, labels: pa.Array, kind: str = "string", positive: object = None) -> Target:
    wanted = contract(task, kind, positive)
    return Target.of(wanted, label_sketch(wanted, labels))


@pytest.mark.parametrize(
    ("labels", "kind", "positive", "classes"),
    [
        (pa.array([True, False] * 3), "bool", None, ("false", "true")),
        (pa.array([True, False] * 3), "bool", False, ("true", "false")),
        (pa.array([1, 2] * 3), "int64", 1, ("2", "1")),
        (pa.array([1.0, 2.0] * 3), "double", 1, ("2", "1")),
        (pa.array(["good", "bad"] * 3), "string", "bad", ("good", "bad")),
        (pa.array([2, 10] * 3), "int64", None, ("2", "10")),
    ],
)
def test_the_positive_class_is_the_second(labels: pa.Array, kind: str, positive: object, classes: tuple[str, str]) -> None:
    found = target("binary", labels, kind, positive)
    assert found.classes == classes
    assert found.encode(labels).tolist()[:2] == [float(classes.index(text)) for text in labels.cast(pa.string()).to_pylist()[:2]]
    assert found.decode(np.array([0, 1])).to_pylist() == list(classes)


def test_whole_number_classes_sort_as_numbers() -> None:
    assert target("multiclass", pa.array([10, 9, 1] * 3), "int64").classes == ("1", "9", "10")


def test_classes_too_small_to_learn_and_missing_labels_have_no_number() -> None:
    labels = pa.array(["a"] * 3 + ["b"] * 3 + ["rare"] * 2 + [None])
    found = target("multiclass", labels)
    assert found.classes == ("a", "b")
    assert np.isnan(found.encode(labels)).tolist() == [False] * 6 + [True] * 3


@pytest.mark.parametrize(
    ("labels", "positive", "said"),
    [
        (["a"] * 9, None, "fewer than two classes"),
        (["a"] * 9 + ["b"], None, "fewer than two classes"),
        ([None] * 9, None, "fewer than two classes"),
        (["a", "b", "c"] * 3, None, "not binary"),
        (["a", "b"] * 3, "yes", "positive is not a label value"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(labels: list, positive: object, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        target("binary", pa.array(labels, pa.string()), positive=positive)
    assert caught.value.allowed


def test_a_number_stays_itself() -> None:
    found = target("regression", pa.array([1.5, None, 3.0]), "double")
    assert found.encode(pa.array([1.5, None])).tolist() == pytest.approx([1.5, float("nan")], nan_ok=True)
    assert prediction_type(contract("regression", "int64")) == pa.float64()
    assert prediction_type(contract("binary", "int64")) == pa.int64()


@given(st.lists(st.floats(0, 1e12), min_size=1))
def test_the_log_scale_leads_there_and_back(values: list[float]) -> None:
    y = np.array(values)
    plain, log = Target("regression"), Target("regression", log=True)
    assert (plain.backward(plain.forward(y)) == y).all()
    np.testing.assert_allclose(log.backward(log.forward(y)), y, rtol=1e-9, atol=1e-9)
    assert (np.diff(log.forward(np.sort(y))) >= 0).all()


@given(st.permutations(["nan", "a", "10", "9", "-1", "inf", "NaN", "b"]), st.integers(0, 24))
def test_classes_have_one_order_whatever_that_of_the_rows(names: list[str], cut: int) -> None:
    wanted, labels = contract("multiclass"), pa.array(names * 3)
    halves = [label_sketch(wanted, part) for part in (labels.slice(0, cut), labels.slice(cut))]
    assert Target.of(wanted, halves[1].merge(halves[0])).classes == ("-1", "9", "10", "inf", "NaN", "a", "b", "nan")  # type: ignore[arg-type]


def test_a_label_with_too_many_values_is_refused_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MAX_LEVELS", 2)
    with pytest.raises(UsageError, match="more than"):
        target("multiclass", pa.array(["a", "b", "c"] * 3))
