"""Wrong configuration is refused before anything starts, with what to type instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.compose import BUILT_IN, build, compose
from conf.errors import UsageError
from conf.targets import resolve


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
        "tables.flights.importlib.util",
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
