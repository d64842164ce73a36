"""A run that cannot work is refused before Ray starts."""

from __future__ import annotations

import pytest

from cluster.resources import concurrent_trials
from conf.compose import compose
from conf.errors import UsageError
from flows.plan import _targets, plan


def test_a_trial_larger_than_the_machine_is_refused_with_the_fix() -> None:
    with pytest.raises(UsageError, match="asks for more CPU") as caught:
        plan(compose(["experiment=flights", "trainer=xgboost", "trainer.resources.cpu=99"]))
    assert "trainer.resources.cpu=" in caught.value.next


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="asks for more GPU"):
        plan(compose(["experiment=flights", "trainer=mlp", "trainer.resources.gpu=1"]))


def test_trial_concurrency_fits_cpus_gpus_and_lag() -> None:
    half_gpu = {"mlp": {"CPU": 1.0, "GPU": 0.5}}
    assert concurrent_trials(half_gpu, {"CPU": 8, "GPU": 1}, None, lag=4) == 2
    assert concurrent_trials({"linear": {"CPU": 1.0, "GPU": 0.0}}, {"CPU": 8}, None, lag=4) == 4
    assert concurrent_trials({"linear": {"CPU": 1.0, "GPU": 0.0}}, {"CPU": 8}, 1, lag=4) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer=xgboost", "trainer.max_depth=interval(9,2)"], "reversed"),
        (["trainer=xgboost", "trainer.max_depth=choice(4,deep)"], "mixed types"),
        (["trainer=xgboost", "trainer.max_depht=choice(4,5)"], "did you mean 'max_depth'"),
        (["trainer=all", "trainer.xgbost.max_depth=choice(4,5)"], "did you mean 'xgboost'"),
        (["trainer=xgboost", "trainer.max_depth=-3"], "max_depth"),
        (["dataset.split.valid_from=7"], "must rise"),
        (["dataset.slices=[planet]"], "not in the contract"),
        (["dataset.source.months=[13]"], "unknown month"),
        (["cluster=existing", "cluster.address=localhost:1"], "own platform"),
        (["gates.calibrated._target_=os.system"], "not allowed"),
    ],
)
def test_mistakes_in_plug_ins_are_found_by_their_owners(overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(compose(["experiment=flights", *overrides]))
    assert said in caught.value.message


def test_a_value_a_person_typed_is_not_searched() -> None:
    (family,) = plan(compose(["experiment=flights", "trainer=xgboost", "trainer.max_depth=6"])).families
    assert "max_depth" not in family.space
    assert family.params["max_depth"] == 6


def test_the_code_of_a_source_is_that_of_every_class_in_it() -> None:
    inner = {"_target_": "tables.sources.files.Files", "path": "there"}
    source = {
        "_target_": "tables.sources.joined.Joined",
        "table": inner,
        "joins": [{"_target_": "tables.sources.parts.Join", "source": inner}],
    }
    assert sorted(set(_targets(source))) == ["tables.sources.files.Files", "tables.sources.joined.Joined", "tables.sources.parts.Join"]
