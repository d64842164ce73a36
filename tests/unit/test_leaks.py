"""The leak probe finds what was known only afterwards, and keeps quiet on honest tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn import datasets

from conf.compose import BUILT_IN
from flows.leaks import Probe, alone, probe
from tables.checking import check
from tables.contract import Contract
from tables.encoder import Encoder
from tables.features import Feature, Task
from tables.sketches import as_floats, sketch
from tables.sources import flights as source
from trainers.protocol import Matrix

TOO_GOOD = 0.99


def numeric(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(name, "numeric", name) for name in names)


def halves(x: np.ndarray, y: np.ndarray, features: tuple[Feature, ...], seed: int = 0) -> tuple[Matrix, Matrix]:
    order = np.random.default_rng(seed).permutation(len(y))
    parts = order[: len(y) // 2], order[len(y) // 2 :]
    one, other = (Matrix(np.asarray(x, np.float32)[rows], np.asarray(y, float)[rows], features) for rows in parts)
    return one, other


def suspects(x: np.ndarray, y: np.ndarray, features: tuple[Feature, ...], task: Task = "binary") -> list[str]:
    return [suspect.feature for suspect in probe(*halves(x, y, features), task).suspects(TOO_GOOD)]


@pytest.mark.parametrize(
    ("load", "task"),
    [("load_iris", "multiclass"), ("load_breast_cancer", "binary"), ("load_wine", "multiclass"), ("load_diabetes", "regression")],
)
def test_no_false_alarm_on_honest_tables(load: str, task: Task) -> None:
    x, y = getattr(datasets, load)(return_X_y=True)
    features = numeric(*(f"f{i}" for i in range(x.shape[1])))
    for seed in range(3):
        assert probe(*halves(x, y, features, seed), task).suspects(TOO_GOOD) == ()


NOISE = np.random.default_rng(0).normal(size=(2_000, 3))


@pytest.mark.parametrize(
    ("task", "y", "copy"),
    [
        ("binary", NOISE[:, 0] > 0.3, lambda y: 5.0 - 2 * y),
        ("multiclass", np.digitize(NOISE[:, 0], [-0.5, 0.5]), lambda y: y * 3.0),
        ("regression", NOISE[:, 0], lambda y: 100 - 3 * y),
    ],
)
def test_a_copy_of_the_label_is_caught_in_any_spelling(task: Task, y: np.ndarray, copy: object) -> None:
    x = np.column_stack([NOISE[:, 1], copy(y.astype(float))])  # type: ignore[operator]
    found = probe(*halves(x, y, numeric("noise", "copy")), task)
    assert [s.feature for s in found.suspects(TOO_GOOD)] == ["copy"]
    assert found.strongest[0].feature == "copy"
    assert found.strongest[0].strength > TOO_GOOD


def test_a_shuffled_code_of_the_label_is_caught_without_an_order() -> None:
    y = (np.arange(2_000) % 2).astype(float)
    codes = np.random.default_rng(1).permutation(20)[(np.arange(2_000) % 20)].astype(float)
    assert suspects(np.column_stack([codes, NOISE[:, 0]]), y, (Feature("code", "categorical", "code", 20), *numeric("noise"))) == ["code"]


def test_missing_values_that_tell_the_label_are_caught() -> None:
    y = (NOISE[:, 0] > 0).astype(float)
    gone = (y == 1) & (NOISE[:, 1] > 0.5)
    features = (*numeric("a", "b"), Feature("b is missing", "indicator", "b"))
    assert suspects(np.column_stack([NOISE[:, 1], NOISE[:, 2], gone]), y, features) == ["b"]
    honest = NOISE[:, 1] > 0.5
    assert suspects(np.column_stack([NOISE[:, 1], NOISE[:, 2], honest]), y, features) == []
    few = gone & (np.cumsum(gone) < 20)
    assert suspects(np.column_stack([NOISE[:, 1], NOISE[:, 2], few]), y, features) == [], "a handful of rows proves nothing"


def test_missing_values_of_rows_that_mostly_have_that_label_anyway_are_no_leak() -> None:
    y = (np.arange(2_000) % 100 == 0).astype(float)
    features = (*numeric("a"), Feature("a is missing", "indicator", "a"))
    assert suspects(np.column_stack([NOISE[:, 1], (y == 0) & (NOISE[:, 2] > 0)]), y, features) == []


def test_one_strong_feature_far_above_the_rest_is_suspect_and_strong_company_is_not() -> None:
    y = (NOISE[:, 0] > 0).astype(float)
    strong = y + NOISE[:, 1] * 0.6
    assert suspects(np.column_stack([strong, NOISE[:, 2]]), y, numeric("strong", "noise")) == ["strong"]
    assert suspects(np.column_stack([strong, strong + NOISE[:, 2] * 0.2]), y, numeric("strong", "also")) == []
    same_column = (Feature("strong", "numeric", "s"), Feature("strong too", "numeric", "s"), *numeric("noise"))
    assert suspects(np.column_stack([strong, strong, NOISE[:, 2]]), y, same_column) == ["strong"]


def test_a_feature_of_chance_has_the_strength_of_chance() -> None:
    x = NOISE[:, 1].astype(np.float32)
    binary, number = (NOISE[:, 0] > 0).astype(float), NOISE[:, 0]
    assert alone(x[:1000], binary[:1000], x[1000:], binary[1000:], "binary") == pytest.approx(0.5, abs=0.06)
    assert alone(x[:1000], binary[:1000], x[1000:], binary[1000:], "multiclass") == pytest.approx(0.5, abs=0.06)
    assert alone(x[:1000], number[:1000], x[1000:], number[1000:], "regression") < 0.05
    assert alone(x[:1000], binary[:1000], x[1000:], np.ones(1000), "binary") == 0.5


@pytest.fixture(scope="module")
def flights() -> dict[str, pa.Table]:
    """January to learn from and February to check, by the contract."""
    contract = Contract.load(BUILT_IN / "contract" / "flights.yaml")
    lookups = {name: source.lookup(name)[0] for name in source.LOOKUP_RULES}
    everything = source.with_clock(source.read_csv("flights.csv.zip"))
    rows = [source.features(part, lookups) for part in source.partitions(everything, [1, 2])]
    good = check(contract, pa.concat_tables(rows)).good
    return {name: good.filter(pc.equal(good["month"], month)).combine_chunks() for name, month in (("train", 1), ("valid", 2))}


def judge(flights: dict[str, pa.Table], *more: str) -> Probe:
    contract = Contract.load(BUILT_IN / "contract" / "flights.yaml")
    sketches = {name: sketch(flights["train"][name].combine_chunks()) for name in contract.features}
    encoder = Encoder.fit(contract, sketches, time_column="month", max_levels=250, min_rows=10)
    train, valid = (
        Matrix(
            np.column_stack([encoder.encode(part), *(as_floats(part[name].combine_chunks()) for name in more)]).astype(np.float32),
            as_floats(part["late"].combine_chunks()),
            (*encoder.features, *numeric(*more)),
        )
        for part in flights.values()
    )
    return probe(train, valid, "binary")


def test_the_departure_delay_is_caught_on_the_real_flights(flights: dict[str, pa.Table]) -> None:
    (suspect,) = judge(flights, "dep_delay").suspects(TOO_GOOD)
    assert suspect.feature == "dep_delay"
    assert 0.85 < suspect.strength < TOO_GOOD


def test_the_arrival_delay_is_caught_however_many_leaks_stand_beside_it(flights: dict[str, pa.Table]) -> None:
    assert [s.feature for s in judge(flights, "dep_delay", "arr_delay").suspects(TOO_GOOD)] == ["arr_delay"]


def test_what_is_known_at_departure_raises_no_alarm(flights: dict[str, pa.Table]) -> None:
    found = judge(flights)
    assert found.suspects(TOO_GOOD) == ()
    assert found.strongest[0].strength < 0.8
