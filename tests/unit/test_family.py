"""A trainer's config as a family: typed parameters, spaces within their ranges, mistakes suggested."""

from __future__ import annotations

import pytest

from conf.errors import UsageError
from trainers.family import Family, Resources, families
from trainers.linear import LinearParams
from trainers.space import Choice, Interval

LINEAR = {"_target_": "trainers.linear.Linear", "l2": 1.0, "space": {"l2": "tag(log, interval(0.1, 10))"}}
TREES = {"_target_": "trainers.lightgbm.LightGBM", "resources": {"cpu": 2}, "space": {"num_leaves": "choice(7, 15)"}}


def test_one_trainer_is_named_by_its_module_and_several_by_their_keys() -> None:
    (single,) = families(LINEAR, {})
    assert (single.name, single.params, single.space) == ("linear", {"l2": 1.0}, {"l2": Interval(0.1, 10, log=True)})
    both = families({"a": LINEAR, "b": TREES}, {})
    assert [family.name for family in both] == ["a", "b"]
    assert both[1].resources == Resources(cpu=2)


def test_a_typed_value_is_not_searched_and_an_override_is() -> None:
    assert families(LINEAR, {}, ["l2"])[0].space == {}
    assert families(LINEAR, {"max_iterations": "choice(5, 9)"}, ["l2"])[0].space == {"max_iterations": Choice((5, 9))}
    a, b = families({"a": LINEAR, "b": TREES}, {"b.num_leaves": "range(3, 5)"}, ["a.l2"])
    assert (a.space, b.space) == ({}, {"num_leaves": Interval(3, 4, step=1)})


def test_a_parameter_that_counts_is_searched_in_whole_numbers() -> None:
    assert families(LINEAR, {"max_iterations": "interval(5, 50)"})[0].space["max_iterations"] == Interval(5, 50, step=1)
    with pytest.raises(UsageError, match="another type"):
        families(LINEAR, {"max_iterations": "interval(5.5, 50)"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_iteration": 1}, "did you mean 'max_iterations'"),
        ({"space": {"max_iter": "choice(1)"}}, "did you mean 'max_iterations'"),
        ({"l2": -1.0}, "l2 is out of range"),
        ({"space": {"l2": "interval(-1, 1)"}}, "l2 is out of range"),
        ({"space": {"l2": "choice(1.0, -2.0)"}}, "l2 is out of range"),
        ({"space": {"l2": "choice(deep, shallow)"}}, "l2 has another type"),
        ({"l2": "ten"}, "l2 has another type"),
        ({"l2": True}, "l2 has another type"),
        ({"l2": None}, "l2 has another type"),
        ({"l2": float("nan")}, "l2 is out of range"),
        ({"max_iterations": 2.5}, "max_iterations has another type"),
        ({"resources": {"cpus": 2}}, "did you mean 'cpu'"),
        ({"resources": {"cpu": -1}}, "cpu is out of range"),
        ({"_target_": "os.path"}, "not allowed"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_trained(change: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        families({**LINEAR, **change}, {})


def test_entries_that_are_no_trainer_and_spaces_for_nobody_are_named() -> None:
    with pytest.raises(UsageError, match="no trainer"):
        families({"a": LINEAR, "b": {"l2": 1}}, {})
    with pytest.raises(UsageError, match="did you mean 'linear'"):
        families({"linear": LINEAR, "trees": TREES}, {"linaer.l2": "choice(1.0, 2.0)"})


def test_chosen_values_win_over_the_familys_and_a_whole_number_is_a_number() -> None:
    family = Family("linear", "trainers.linear.Linear", {"l2": 1.0, "max_iterations": 7})
    assert family.build_params({"l2": 3}) == LinearParams(l2=3, max_iterations=7)


def test_workers_get_whole_threads_and_the_device_they_asked_for() -> None:
    assert [Resources(cpu=cpu).threads for cpu in (0.5, 1, 3.9)] == [1, 1, 3]
    assert [Resources(gpu=gpu).device for gpu in (0, 0.5)] == ["cpu", "cuda"]
