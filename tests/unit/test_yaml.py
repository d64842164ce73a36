"""Every YAML that ships composes, builds, and says by which command it is used."""

from __future__ import annotations

import pytest
import yaml

from conf.compose import BUILT_IN, build, compose
from flows.plan import plan
from tables.contract import Contract

GROUPS = sorted(folder.name for folder in BUILT_IN.iterdir() if folder.is_dir() and any(folder.glob("*.yaml")))
FILES = [(file.parent.name, file.stem) for group in GROUPS for file in sorted((BUILT_IN / group).glob("*.yaml"))]
# What a choice of this group needs beside it to make a whole run.
EXTRA = {("cluster", "existing"): ["cluster.address=localhost:1", "deploy=none"]}


def overrides(group: str, option: str) -> list[str]:
    if group == "experiment":
        return [f"experiment={option}"]
    if group == "dataset":
        return [f"dataset={option}"]
    if group == "gate":
        return ["experiment=flights", f"+gate@gates.tried={option}"]
    return ["experiment=flights", f"{group}={option}", *EXTRA.get((group, option), [])]


@pytest.mark.parametrize(("group", "option"), [pair for pair in FILES if pair[0] != "contract"])
def test_every_option_composes_and_builds(group: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCYCLE_TRACKING", "http://127.0.0.1:5000")  # store=tracked takes it from there
    monkeypatch.setenv("RAYCYCLE_TABLES", "s3://bucket/tables")  # and store=objects from there
    planned = plan(compose(overrides(group, option)))
    assert planned.families
    assert planned.gates


@pytest.mark.parametrize(("group", "option"), FILES)
def test_every_yaml_begins_with_its_command(group: str, option: str) -> None:
    lines = (BUILT_IN / group / f"{option}.yaml").read_text().splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert first.startswith("# ")
    assert group == "contract" or "raycycle " in first


@pytest.mark.parametrize("option", [option for group, option in FILES if group == "contract"])
def test_every_contract_loads_and_survives_its_own_yaml(option: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    contract = Contract.load(BUILT_IN / "contract" / f"{option}.yaml")
    again = tmp_path_factory.mktemp("contract") / "again.yaml"
    again.write_text(contract.dump())
    assert Contract.load(again) == contract


@pytest.mark.parametrize("option", [option for group, option in FILES if group == "trainer" and option != "all"])
def test_every_trainer_yaml_names_every_parameter_with_its_default(option: str) -> None:
    node = yaml.safe_load((BUILT_IN / "trainer" / f"{option}.yaml").read_text())
    from conf.targets import resolve

    defaults = resolve(node["_target_"]).Params()
    given = {key: value for key, value in node.items() if key not in ("_target_", "resources", "space")}
    assert {key: getattr(defaults, key) for key in given} == given
    assert set(given) == set(defaults.__dataclass_fields__)


def test_gates_built_alone_check_evidence() -> None:
    for file in (BUILT_IN / "gate").glob("*.yaml"):
        assert callable(build(yaml.safe_load(file.read_text())).check)
