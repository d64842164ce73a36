"""Wrong configuration is refused before anything starts, with what to type instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conf.compose import BUILT_IN, Composed, build, compose, recomposed
from conf.errors import UsageError
from conf.targets import resolve
from flows.plan import plan
from trainers.space import Choice


def refusal(*overrides: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        compose(overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("trainer=xgbost", "did you mean 'xgboost'"),
        ("experiment=fligths", "did you mean 'flights'"),
        ("sweep.num_trails=3", "did you mean 'sweep.num_trials'"),
        ("polcy=laptop", "did you mean"),
    ],
)
def test_misspelt_names_are_suggested(override: str, suggestion: str) -> None:
    overrides = [override] if override.startswith("experiment") else ["experiment=flights", override]
    error = refusal(*overrides)
    assert suggestion in error.message
    assert error.allowed


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sweep.num_trials=-1", "sweep.num_trials"),
        ("sweep.num_trials=three", "sweep.num_trials"),
        ("seed=1.5", "seed"),
        ("deploy=maybe", "deploy"),
        ("search.sampler=guess", "search.sampler"),
        ("sweep.max_concurrent=9", "sweep.max_concurrent"),
        ("serve.port=80", "serve.port"),
        ("policy.approvals=1", "policy.approvals"),
    ],
)
def test_values_out_of_range_name_the_key_and_what_is_allowed(override: str, key: str) -> None:
    error = refusal("experiment=flights", override)
    assert key in error.message
    assert error.allowed


def test_added_keys_that_nothing_reads_are_refused() -> None:
    assert "there is no such key" in refusal("experiment=flights", "+dataset.foo=1").message
    assert "there is no such key" in refusal("experiment=flights", "+foo=1").message


def test_without_a_dataset_the_next_command_is_named() -> None:
    assert "experiment=flights" in refusal().next


def test_a_word_without_equals_is_named() -> None:
    assert refusal("experiment=flights", "lightgbm").value == "lightgbm"


def test_sweeps_typed_as_overrides_land_in_the_search_space() -> None:
    composed = compose(["experiment=flights", "trainer=xgboost", "trainer.max_depth=choice(4,6)", "trainer.learning_rate=0.1"])
    assert composed.config.search.space == {"max_depth": "choice(4,6)"}
    assert "trainer.learning_rate" in composed.typed


def test_only_trainer_parameters_can_be_searched() -> None:
    assert "only trainer parameters" in refusal("experiment=flights", "seed=choice(1,2)").message


def test_a_users_tree_adds_options(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /dataset: flights\nseed: 5\n")
    composed = compose(["experiment=mine"], config_dir=tmp_path)
    assert composed.config.seed == 5
    assert composed.file("contract", "flights") == BUILT_IN / "contract" / "flights.yaml"


def test_a_missing_config_dir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        compose(["experiment=flights"], config_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "conf.compose.Path",
        "logging.os.system",
        "tables.sources.flights.importlib.util",
        "builtins.eval",
        "",
        "flights",
        "flows.gates.refused",
    ],
)
def test_targets_outside_our_packages_are_refused_even_by_alias(target: str) -> None:
    with pytest.raises(UsageError):
        resolve(target)


def test_build_suggests_a_misspelt_parameter() -> None:
    with pytest.raises(UsageError, match="did you mean 'at_most'"):
        build({"_target_": "flows.gates.Calibrated", "at_mots": 0.1})


def test_plugins_extend_the_allowed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mygates.py").write_text("class Always:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError):
        resolve("mygates.Always")
    assert resolve("mygates.Always", ["mygates"]).__name__ == "Always"


def recorded(composed: Composed[Any]) -> dict[str, Any]:
    """The configuration as a record gives it back: through JSON."""
    plain = json.loads(json.dumps(composed.plain))
    assert isinstance(plain, dict)
    return plain


EXPERIMENTS = [f"experiment={file.stem}" for file in sorted((BUILT_IN / "experiment").glob("*.yaml"))]


@pytest.mark.parametrize(
    "overrides",
    [
        *([experiment] for experiment in EXPERIMENTS),
        ["experiment=flights", "trainer=all", "trainer.xgboost.max_depth=choice(4,6)", "sweep.num_trials=3"],
        ["experiment=flights", "trainer=xgboost", "trainer.max_depth=6", "trainer.learning_rate=interval(0.01,0.3)", "seed=7"],
        ["experiment=flights", "dataset.source.months=[1,2,3]", "dataset.slices=[]", "search.rungs=[]", "policy=laptop"],
        ["experiment=flights", "cluster=existing", "cluster.address=localhost:1", "deploy=none", "score.where='month > 9'"],
        ["experiment=flights", "+gate@gates.tried=min_metric", "store.root='größe ${oc.env:HOME}'", "plugins=[mine]"],
    ],
    ids=lambda overrides: " ".join(overrides)[:60],
)
def test_a_recorded_configuration_gives_the_same_objects_again(overrides: list[str]) -> None:
    composed = compose(overrides)
    again = recomposed(recorded(composed), composed.trees, composed.typed)
    assert again.config == composed.config
    assert type(again.config) is type(composed.config)
    assert repr(again.plain) == repr(composed.plain), "1 is not 1.0, and the order is the same"
    assert (again.trees, again.typed) == (composed.trees, composed.typed)
    assert recomposed(recorded(again), again.trees, again.typed) == again


def test_what_a_person_typed_is_still_not_searched_when_it_comes_from_a_record() -> None:
    composed = compose(["experiment=flights", "trainer=xgboost", "trainer.max_depth=6", "trainer.learning_rate=choice(0.1,0.2)"])
    first, again = (plan(each).families for each in (composed, recomposed(recorded(composed), composed.trees, composed.typed)))
    assert first == again
    assert "max_depth" not in again[0].space
    assert again[0].space["learning_rate"] == Choice((0.1, 0.2))
    assert "max_depth" in plan(recomposed(recorded(composed), composed.trees, ())).families[0].space


@pytest.mark.parametrize("root", ["platform", "scoring"])
def test_other_roots_are_composed_again_too(root: str) -> None:
    composed = compose([], root=root)
    assert recomposed(recorded(composed), composed.trees, composed.typed, root).config == composed.config


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sweeep": {}}, "sweeep"),
        ({"sweep": {"num_trails": 3}}, "num_trails"),
        ({"sweep": {"num_trials": "three"}}, "three"),
        ({"sweep": 5}, "does not fit this code"),
        ({"seed": None}, "does not fit this code (Incompatible value 'None'"),
        ({"sweep": {"num_trials": -1}}, "sweep.num_trials is out of range"),
        ({"deploy": "maybe"}, "deploy is out of range"),
        ({"dataset": {"name": "???"}}, "name"),
        ({"plugins": "mine"}, "does not fit this code"),
    ],
)
def test_a_recorded_configuration_that_does_not_fit_is_refused_in_words(changed: dict[str, Any], said: str) -> None:
    plain = recorded(compose(["experiment=flights"]))
    with pytest.raises(UsageError) as caught:
        recomposed(plain | changed, (BUILT_IN,), ())
    assert said in caught.value.message


def test_a_recorded_configuration_without_its_data_is_refused() -> None:
    for plain in ({}, {"trainer": {}}):
        with pytest.raises(UsageError):
            recomposed(plain, (BUILT_IN,), ())
