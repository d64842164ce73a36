"""The record of a run: written, found by the beginning of its id, refused when it is damaged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError, UsageError
from ledger import records
from ledger.records import FILE, Record, StageRun

RUN = "ab" * 16


def record(run_id: str = RUN, **changed: Any) -> Record:
    facts: dict[str, Any] = {
        "run_id": run_id,
        "verb": "run",
        "dataset": "flights",
        "status": "FINISHED",
        "started": "2026-01-01T12:00:00+00:00",
        "ended": None,
        "seed": 7,
        "until": "report",
        "config": {"dataset": {"name": "größe 大小"}, "search": {"space": {"max_depth": "choice(4,6)"}}},
        "typed": ["seed"],
        "contract": "name: flights\n",
        "code": {"commit": "68001dce", "files": {}},
        "pack": "p1",
        "environment": {"python": "3.11.7"},
        "stages": [
            StageRun(
                stage="ingest", ran=True, why="no earlier result", seconds=1.25, key="k1", outputs={"rows": "d1"}, inputs={"source": None}
            ),
            StageRun(stage="prepare", ran=False, why="unchanged since run ab", seconds=0.01, made_by="ab", resources={"cpus": 2.0}),
        ],
        "made": {"snapshot": {"name": "flights", "version": 0}},
    }
    return Record(**(facts | changed))


def put(store: Store, *run_ids: str) -> None:
    for at, run_id in enumerate(run_ids):
        records.write(record(run_id, started=f"2026-01-0{at + 1}T00:00:00+00:00"), store.runs / run_id)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    records.write(record(), tmp_path)
    found = records.read(tmp_path)
    assert found == record()
    stage = found.stage("prepare")
    assert stage is not None
    assert stage.made_by == "ab"
    assert found.stage("sweep") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged"),
        ("", "is damaged"),
        ("[]", "no run record of this version"),
        ("null", "no run record of this version"),
        ("{}", "no run record of this version"),
        ('{"format": 1}', "no run record of this version"),
        ('{"format": 99, "run_id": "x"}', "no run record of this version"),
        (f'{{"format": {records.FORMAT}}}', "is damaged"),
    ],
)
def test_a_damaged_record_or_one_of_another_version_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RaycycleError, match=said) as caught:
        records.read(tmp_path)
    assert str(tmp_path / FILE) in caught.value.message


@pytest.mark.parametrize(
    "changed", [{"seed": "seven"}, {"status": "FINE"}, {"stages": [{"stage": "ingest"}]}, {"surplus": 1}, {"run_id": None}]
)
def test_a_field_of_another_kind_is_damage(tmp_path: Path, changed: dict[str, Any]) -> None:
    file = records.write(record(), tmp_path)
    write_json(file, read_json(file) | changed)
    with pytest.raises(RaycycleError, match="is damaged"):
        records.read(tmp_path)


def test_an_edited_record_is_damage(tmp_path: Path) -> None:
    file = records.write(record(), tmp_path)
    assert records.read(tmp_path).seed == 7
    file.write_text(file.read_text().replace('"seed": 7', '"seed": 5'))
    with pytest.raises(RaycycleError, match="another digest"):
        records.read(tmp_path)


def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    put(store, "ab" * 16, "ac" * 16, "b0" * 16)
    found, folder = records.find(store, "b")
    assert (found.run_id, folder) == ("b0" * 16, store.runs / ("b0" * 16))
    assert records.find(store, "ab" * 16)[0].run_id == "ab" * 16
    with pytest.raises(UsageError, match="more than one run") as caught:
        records.find(store, "a")
    assert caught.value.allowed == f"{'ac' * 16}, {'ab' * 16}", "the newest is named first"
    with pytest.raises(UsageError, match="no run has this id"):
        records.find(store, "cc")


def test_every_record_is_told_newest_first_and_the_damaged_apart(store: Store) -> None:
    put(store, "aa", "bb", "cc")
    (store.runs / "bb" / FILE).write_text("{")
    (store.runs / "empty").mkdir()
    (store.runs / "a file").write_text("")
    found, damaged = records.every(store)
    assert [each.run_id for each in found] == ["cc", "aa"]
    assert [each.run_id for each in damaged] == ["bb", "empty"]
    with pytest.raises(RaycycleError, match="is damaged"):
        records.find(store, "bb")


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "../outside", "/", "/etc", "ab\0", "\0", "*", "ab*", "a/../ab", "~", "\udcff", "a" * 10_000]
)
def test_an_id_that_is_a_path_names_no_run_and_nothing_outside_is_touched(store: Store, run_id: str) -> None:
    put(store, "ab" * 16)
    records.write(record("outside"), store.root / "outside")
    opened: list[str] = []
    _AUDITED.append(opened)
    try:
        with pytest.raises(UsageError, match="no run has this id"):
            records.find(store, run_id)
    finally:
        _AUDITED.clear()
    assert not [path for path in opened if not path.startswith(str(store.runs))]


# An audit hook stays to the end of the process: it notes only while a list is there.
_AUDITED: list[list[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _AUDITED and event in ("open", "os.listdir", "os.scandir"):
        _AUDITED[-1].append(str(arguments[0]))


sys.addaudithook(_note)


def test_an_absolute_id_of_a_real_run_is_not_found(store: Store) -> None:
    put(store, "ab" * 16)
    for run_id in (str(store.runs / ("ab" * 16)), f"./{'ab' * 16}"):
        with pytest.raises(UsageError, match="no run has this id"):
            records.find(store, run_id)
