"""A change of a contract breaks readers where a promise got weaker, and writers where one got stronger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.data import data_app
from tables.contract import Contract
from tables.contract_change import changes

BASE: dict[str, Any] = yaml.safe_load(r"""
name: shop
task: binary
label: late
key: [id]
max_bad_fraction: 0.05
columns:
  id: {type: int64, role: key, nullable: false}
  x: {type: int64, min: 0, max: 9}
  code: {type: string, pattern: '[A-Z]+\d', class: internal}
  c: {type: string, nullable: false, allowed: [a, b]}
  d: {type: date, formats: ['%d.%m.%Y']}
  when: {type: timestamp, role: time}
  late: {type: bool, role: label, nullable: false}
rules: [{name: r, check: x > 1}]
unique: [[id]]
references: [{columns: [c], table: kinds, to: [kind]}]
rows: {min: 10, change: 0.5}
freshness: {column: when, max_age: 7d}
distributions: {x: {psi: 0.2}}
""")
READERS, WRITERS, BOTH, NOBODY = ["readers"], ["writers"], ["readers", "writers"], []


def written(file: Path, *edits: tuple[str, Any]) -> Path:
    """The base contract with the fields at dotted paths set, or removed where the value is ...."""
    plain = json.loads(json.dumps(BASE))
    for path, value in edits:
        *steps, last = path.split(".")
        node = plain
        for step in steps:
            node = node[int(step)] if isinstance(node, list) else node[step]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    file.write_text(yaml.safe_dump(plain, sort_keys=False))
    return file


@pytest.mark.parametrize(
    ("path", "value", "what", "breaks"),
    [
        ("columns.new", {"type": "double"}, "added", NOBODY),
        ("columns.new", {"type": "double", "nullable": False}, "added", WRITERS),
        ("columns.d", ..., "removed", BOTH),
        ("columns.x.type", "double", "changed", BOTH),
        ("columns.x.role", "observed", "changed", BOTH),
        ("columns.x.nullable", False, "tightened", WRITERS),
        ("columns.c.nullable", True, "loosened", READERS),
        ("columns.x.max", 8, "tightened", WRITERS),
        ("columns.x.max", 10, "loosened", READERS),
        ("columns.x.min", -1, "loosened", READERS),
        ("columns.x.min", ..., "loosened", READERS),
        ("columns.when.note", "new", "changed", NOBODY),
        ("columns.c.allowed", ["b", "a"], "changed", NOBODY),
        ("columns.c.allowed", ["a"], "tightened", WRITERS),
        ("columns.c.allowed", ["a", "b", "z"], "loosened", READERS),
        ("columns.c.allowed", ["a", "z"], "changed", BOTH),
        ("columns.code.pattern", "[A-Z]+", "changed", BOTH),
        ("columns.code.pattern", ..., "loosened", READERS),
        ("columns.code.class", "public", "changed", NOBODY),
        ("columns.code.treatment", {"how": "drop"}, "changed", READERS),
        ("columns.d.formats", ["%d.%m.%Y", "%Y/%m/%d"], "changed", NOBODY),
        ("columns.d.formats", ["%m.%d.%Y"], "changed", BOTH),
        ("columns.x.severity", "warn", "loosened", READERS),
        ("columns.x.severity", "stop", "tightened", WRITERS),
        ("rules.0.check", "x > 2", "changed", BOTH),
        ("rules", [], "removed", READERS),
        ("unique", ..., "removed", READERS),
        ("references.0.severity", "stop", "tightened", WRITERS),
        ("rows.min", 20, "tightened", WRITERS),
        ("rows.change", 0.6, "loosened", READERS),
        ("freshness.max_age", "1w", "changed", NOBODY),
        ("freshness.max_age", "8d", "loosened", READERS),
        ("distributions.x.ks", 0.1, "tightened", WRITERS),
        ("max_bad_fraction", 0.1, "loosened", READERS),
        ("key", ["id", "c"], "changed", BOTH),
    ],
)
def test_a_change_breaks_whom_it_must(tmp_path: Path, path: str, value: Any, what: str, breaks: list[str]) -> None:
    old, new = Contract.load(written(tmp_path / "old.yaml")), Contract.load(written(tmp_path / "new.yaml", (path, value)))
    (found,) = changes(old, new)
    assert (found.what, list(found.breaks)) == (what, breaks)
    assert changes(old, old) == changes(new, new) == []


def test_a_promise_and_its_undoing_break_opposite_sides(tmp_path: Path) -> None:
    old, new = Contract.load(written(tmp_path / "old.yaml")), Contract.load(written(tmp_path / "new.yaml", ("columns.x.max", 5)))
    assert [changes(old, new)[0].breaks, changes(new, old)[0].breaks] == [("writers",), ("readers",)]


def test_a_renamed_column_is_one_change(tmp_path: Path) -> None:
    edits = (("columns.code", ...), ("columns.sku", BASE["columns"]["code"]))
    (found,) = changes(Contract.load(written(tmp_path / "old.yaml")), Contract.load(written(tmp_path / "new.yaml", *edits)))
    assert (found.what, found.old, found.new, found.effect) == ("renamed", "code", "sku", "other")


def test_a_severity_without_a_bound_means_nothing(tmp_path: Path) -> None:
    new = written(tmp_path / "new.yaml", ("columns.when.severity", "stop"))
    assert changes(Contract.load(written(tmp_path / "old.yaml")), Contract.load(new)) == []


def test_the_exit_code_says_whether_it_breaks_those_asked_for(tmp_path: Path) -> None:
    old, new = str(written(tmp_path / "old.yaml")), str(written(tmp_path / "new.yaml", ("columns.x.max", 5)))
    codes = {
        side: CliRunner().invoke(data_app, ["contract", "diff", old, new, "--for", side]).exit_code
        for side in ("readers", "writers", "both")
    }
    assert codes == {"readers": 0, "writers": 3, "both": 3}
    said = CliRunner().invoke(data_app, ["contract", "diff", old, new, "--json"])
    told = json.loads(said.stdout.splitlines()[-1])
    assert (said.exit_code, told["breaking"], told["changes"][0]["breaks"]) == (0, False, ["writers"])


def test_check_says_what_a_contract_promises_by_file_or_name(tmp_path: Path) -> None:
    lines = CliRunner().invoke(data_app, ["contract", "check", str(written(tmp_path / "old.yaml"))]).stdout.splitlines()
    assert "x     int64     feature  from 0 to 9" in lines
    assert "each row       c is among kind of kinds, else quarantine" in lines
    assert "the table      the latest when at most 7d old, else stop" in lines
    assert "flights: binary of late" in CliRunner().invoke(data_app, ["contract", "check", "flights"]).stdout
    assert CliRunner().invoke(data_app, ["contract", "check", "fligths"]).exit_code == 2
